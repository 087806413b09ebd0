use super::*;

fn how() -> Reading {
    Reading::default()
}

fn all(file: &str, text: &str, how: &Reading) -> Workload {
    read(file, text, how).unwrap_or_else(|flaws| panic!("{flaws:?}")).all.unwrap()
}

fn seconds(workload: &Workload) -> Vec<(f64, f64)> {
    let one = |job: &Job| (job.at.as_secs_f64(), job.takes.as_secs_f64());
    workload.jobs().iter().map(one).collect()
}

fn flaws(file: &str, text: &str, how: &Reading) -> String {
    let flaws = read(file, text, how).unwrap_err();
    flaws.as_slice().iter().map(|flaw| format!("{flaw}\n")).collect()
}

#[test]
fn a_trace_of_jobs_is_read_however_it_writes_time() {
    let plain = all("t.csv", "arrival,service\n0,30\n1.5, 10\n\n# later\n90,1m 30s\n", &how());
    assert_eq!(seconds(&plain), [(0.0, 30.0), (1.5, 10.0), (90.0, 90.0)]);
    assert_eq!(plain.lasts(), Duration::from_millis(90_001));
    let bare = all("t.csv", "5,30\n0,10\n", &how());
    assert_eq!(seconds(&bare), [(0.0, 10.0), (5.0, 30.0)]);
    let turned = all("t.csv", "\"takes\";\"submit\"\n30s;1m\n", &how());
    assert_eq!(seconds(&turned), [(60.0, 30.0)]);
    let dates = all(
        "t.csv",
        "timestamp\tduration\n2026-01-31T08:00:10Z\t5\n2026-01-31 08:00:00\t6\n",
        &how(),
    );
    assert_eq!(seconds(&dates), [(0.0, 6.0), (10.0, 5.0)]);
    let unix = all("t.csv", "1700000000,5\n1700000060,5\n", &how());
    assert_eq!(seconds(&unix), [(0.0, 5.0), (60.0, 5.0)]);
    let service = Some("20s".parse().unwrap());
    let without = all("t.csv", "arrival\n0\n7\n", &Reading { service, ..how() });
    assert_eq!(seconds(&without), [(0.0, 20.0), (7.0, 20.0)]);
    assert_eq!(all("t.csv", "arrival,service\n", &how()), Workload::default());
}

#[test]
fn every_fault_of_a_trace_is_found_with_its_place() {
    let text = "arrival,service\n-1,30\n0,nothing\n5\n6,0\n7,1,2\nnever,NaN\n40000000,1\n";
    insta::assert_snapshot!(flaws("t.csv", text, &how()));
    let headings = flaws("t.csv", "arival,colour\n0,1\n", &how()) + &flaws("t.csv", "at,time,service\n0,1,1\n", &how());
    for says in [
        "t.csv:1:1: no column is called \"arival\"; did you mean \"arrival\"?",
        "t.csv:1:8: no column is called \"colour\"; take it out; the columns are: arrival, service",
        "t.csv:1:1: the column \"service\" is missing; it may be called service, takes",
        "t.csv:1:4: the column \"time\" says again what \"arrival\" says",
    ] {
        assert!(headings.contains(says), "{says}\n{headings}");
    }
    let mixed = flaws("t.csv", "0,1\n2026-01-31T08:00:00Z,1\n", &how());
    assert!(mixed.starts_with("t.csv:1:1: some times are by the calendar"), "{mixed}");
    let many = read("t.csv", &"-1,1\n".repeat(1_000), &how()).unwrap_err();
    assert_eq!(many.as_slice().len(), FLAWS_MAX);
}

#[test]
fn counts_are_spread_over_their_intervals() {
    let service = Some("30s".parse().unwrap());
    let reading = Reading { service, ..how() };
    let counts = all("c.csv", "time,count\n0,10\n60,0\n120,5\n", &reading);
    let within = |from: u64, to: u64| counts.jobs().iter().filter(|job| (from..to).contains(&job.at.as_secs())).count();
    assert_eq!((within(0, 60), within(60, 120), within(120, 180)), (10, 0, 5));
    assert_eq!(counts.lasts(), Duration::from_secs(180));
    assert_eq!(counts, all("c.csv", "time,count\n0,10\n60,0\n120,5\n", &reading));
    let ended = all(
        "c.csv",
        "interval,requests,service\n2026-01-01T00:00:00Z,3,1m\n2026-01-01T01:00:00Z,0,1m\n",
        &how(),
    );
    assert_eq!((ended.jobs().len(), ended.lasts()), (3, Duration::from_secs(3_600)));
    assert!(ended.jobs().iter().all(|job| job.takes == Duration::from_secs(60)));
    let format = Some(Format::Counts);
    let bare = all("c.csv", "0,2\n10,2\n", &Reading { format, ..reading.clone() });
    assert_eq!(bare.jobs().len(), 4);
    let wrong = [
        flaws("c.csv", "time,count\n0,10\n", &how()),
        flaws("c.csv", "time,count\n0,10\n", &reading),
        flaws("c.csv", "time,count\n10,1\n10,-1\n5,1\n", &reading),
        flaws("c.csv", "time,count\n10,1\n5,1.5\n5,1\n1,1\n", &reading),
        flaws("c.csv", "time,count\n0,2000000\n1,1\n", &reading),
    ];
    insta::assert_snapshot!(wrong.concat());
}

#[test]
fn the_standard_workload_format_is_read() {
    let line = |submit: &str, run: &str, allocated: &str, requested: &str| {
        format!("1 {submit} 5 {run} {allocated} -1 -1 {requested} -1 -1 1 7 1 -1 -1 -1 -1 -1\n")
    };
    let text = format!(
        "; Version: 2.2\n; Note: small\n\n{}{}{}{}{}",
        line("100", "30", "1", "1"),
        line("110", "60", "-1", "3"),
        line("120", "-1", "1", "1"),
        line("130", "0", "1", "1"),
        line("-1", "30", "1", "1"),
    );
    let log = all("log.swf", &text, &how());
    assert_eq!(seconds(&log), [(0.0, 30.0), (10.0, 60.0), (10.0, 60.0), (10.0, 60.0)]);
    let notes = [
        "log.swf: 2 jobs have no run time, and are left out",
        "log.swf: 1 jobs have no submit time, and are left out",
        "log.swf: 1 jobs of several workers became a job for each of them, which need not run at once",
    ];
    assert_eq!(log.notes, notes);
    assert_eq!(
        all("log", &text, &how()),
        Workload {
            notes: all("log", &text, &how()).notes,
            ..log
        }
    );
    let wide = Reading {
        processors_per_worker: 2,
        ..how()
    };
    assert_eq!(all("log.swf", &text, &wide).jobs().len(), 3);
    let wrong = format!(
        "{}1 2 3\n1 x 5 30 1 -1 -1 1 -1 -1 1 7 1 -1 -1 -1 -1 -2\n{}",
        line("0", "1", "1", "1"),
        line("0", "1", "9000000", "1")
    );
    insta::assert_snapshot!(flaws("log.swf", &wrong, &how()));
    assert_eq!(all("log.swf", "; nothing\n", &how()), Workload::default());
}

#[test]
fn yaml_has_jobs_and_generators_for_one_pool_or_several() {
    let text = "service: 30s\njobs:\n  - {at: 10s, count: 2}\n  - {at: 0s, takes: 5s}\n";
    assert_eq!(seconds(&all("w.yaml", text, &how())), [(0.0, 5.0), (10.0, 30.0), (10.0, 30.0)]);
    let text = "
service: 1s
generator: {constant: {rate: 1/s, for: 3s}}
then:
  - constant: {rate: 2/s, for: 1s, service: 2s}
and:
  - constant: {rate: 0.5/s, for: 10s, service: 3s}
";
    let workload = all("w.yaml", text, &how());
    let wanted = [
        (0.0, 1.0),
        (0.0, 3.0),
        (1.0, 1.0),
        (2.0, 1.0),
        (2.0, 3.0),
        (3.0, 2.0),
        (3.5, 2.0),
        (4.0, 3.0),
        (6.0, 3.0),
        (8.0, 3.0),
    ];
    assert_eq!(seconds(&workload), wanted);
    assert_eq!(workload.lasts(), Duration::from_secs(10));
    let text = "
service: 1s
pools:
  web: {generator: {poisson: {rate: 60/m, for: 1h}}}
  mail: {generator: {poisson: {rate: 60/m, for: 1h}}}
";
    let written = read("w.yaml", text, &how()).unwrap();
    let pools: Vec<&Workload> = written.pools.values().collect();
    assert_eq!((written.all, pools.len()), (None, 2));
    assert_ne!(pools[0].jobs()[..10], pools[1].jobs()[..10]);
}

#[test]
fn every_fault_of_a_yaml_workload_is_found_with_its_place() {
    let wrong = [
        flaws("w.yaml", "generator: {poison: {rate: 60/m, for: 1h}}\njobs: [{at: 5}]\n", &how()),
        flaws(
            "w.yaml",
            "generator: {poisson: {rate: 60, for: 1h}}\nthen: [{poisson: {rate: 1/m, fr: 1h}, ramp: {}}]\n",
            &how(),
        ),
        flaws("w.yaml", "{}\n", &how()),
        flaws("w.yaml", "jobs: [{at: 0s}]\ngenerator: {poisson: {rate: 60/m, for: 1h}}\n", &how()),
        flaws(
            "w.yaml",
            "generator: {poisson: {rate: 60/m, for: 1h, service: weibull(1s)}}\n",
            &how(),
        ),
        flaws("w.yaml", "pools: {web: {}}\n", &how()),
    ];
    insta::assert_snapshot!(wrong.concat());
}

#[test]
fn a_generator_fits_in_one_line() {
    let text = "diurnal:low=2/m,high=60/m,service=lognormal(p50=20s,p99=3m),for=24h,seed=4";
    assert!(is_inline(text));
    let day = read_inline(text, &how()).unwrap();
    assert!((40_000..50_000).contains(&day.jobs().len()), "{}", day.jobs().len());
    assert_eq!(
        read_inline("heavy-tail:rate=1/m,mean=30s,shape=1.2,for=1h", &how())
            .unwrap()
            .lasts(),
        Duration::from_secs(3_600)
    );
    assert!(!is_inline("trace.csv") && !is_inline("diurnl:low=2/m"));
    assert_eq!((nearest_kind("diurnl:low=2/m"), nearest_kind("trace.csv")), (Some("diurnal"), None));
    let wrong = [
        "diurnal:low=2/m,hgh=60/m,service=30s,for=24h",
        "poisson:rate=60,for=1h,for=2h,x",
        "poisson:rate=60/m,for=1h",
    ];
    let wrong = wrong.map(|text| {
        read_inline(text, &how())
            .unwrap_err()
            .as_slice()
            .iter()
            .map(|flaw| format!("{flaw}\n"))
            .collect::<String>()
    });
    insta::assert_snapshot!(wrong.concat());
}

#[test]
fn the_form_of_a_file_is_found_out() {
    for (file, text, format) in [
        ("a.yaml", "x", Format::Yaml),
        ("a.json", "x", Format::Yaml),
        ("a.SWF", "x", Format::Swf),
        ("a.csv", "time,count\n", Format::Counts),
        ("a.csv", "# note\narrival,service\n", Format::Jobs),
        ("a", "; Version: 2.2\n", Format::Swf),
        ("a", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18\n", Format::Swf),
        ("-", "generator: {}\n", Format::Yaml),
        ("-", "{\"jobs\": []}\n", Format::Yaml),
        ("a.txt", "0,1\n", Format::Jobs),
    ] {
        assert_eq!(found_out(file, text), format, "{file} {text}");
    }
}

#[test]
fn what_is_read_has_bounds() {
    let text = format!("{}\n", "0,1\n".repeat(JOBS_MAX + 1));
    let found = flaws("t.csv", &text, &how());
    assert!(
        found.contains("t.csv:2000001:1: this is job 2000001, and 2000000 are the most"),
        "{found}"
    );
    let long = Reading {
        format: Some(Format::Jobs),
        ..how()
    };
    assert!(flaws("t", &" ".repeat(TEXT_MAX + 1), &long).contains("longer than 256 MiB"));
}
