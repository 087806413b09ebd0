//! The control process is killed at random moments while EC2 loses replies, runs out of room, throttles, and shows lists that lie.
//! `EPU_TESTS_SEED` repeats a run's choices; `tests/figures ec2-200 --long` makes 200 runs.

use epu_tests::ec2_runs::endure;

#[tokio::test]
async fn nothing_is_leaked_doubled_or_lost_on_a_faulty_ec2_whenever_we_are_killed() {
    let given = std::env::var("EPU_TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = given.map_or_else(|| (0..4).map(|_| fastrand::u64(..)).collect(), |seed: u64| vec![seed]);
    for seed in seeds {
        eprintln!("EPU_TESTS_SEED={seed}");
        let outcome = endure(seed).await.unwrap();
        eprintln!("{outcome:?}");
        assert!(outcome.kills > 0 && outcome.machines > 0);
    }
}
