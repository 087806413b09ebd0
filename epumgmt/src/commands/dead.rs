//! Dead letters, straight at the broker: no service needs to run, and none of them has anything to say about it.

use std::collections::BTreeSet;

use epu_bus::amqp::{DeadLetters, Fate, Letter, Link, Metrics};
use epu_core::Fault;
use serde_json::Value;

use super::{Confirm, Screen};
use crate::cli::{Dead, Letters, Reach};
use crate::exit::{Exit, Failure};
use crate::show::harmless;
use crate::{config, reach};

/// The most of a letter's text that stands in a list, in characters.
const TEXT_MAX: usize = 100;

/// Does what an operator wants of the dead letters.
///
/// # Errors
/// When there is no broker to be reached, it does not let us, or a letter is not there.
pub(crate) async fn dead(reach: &Reach, screen: &mut Screen, confirm: Option<Confirm>, command: &Dead) -> Result<Exit, Failure> {
    let name = format!("dead-{}", std::process::id());
    let settings = reach::broker(reach).or_else(|| config::amqp_of(&reach.config).map(|amqp| amqp.settings(&name)));
    let Some(settings) = settings else {
        return Err(Failure::Usage(
            "dead letters are kept by the broker; pass --amqp-url, set EPU_AMQP_URL, or name a config file that has `amqp`".to_owned(),
        ));
    };
    let metrics = Metrics::new().map_err(|error| Failure::while_doing("make metrics", Fault::new("internal", error.to_string())))?;
    let link = Link::connect(settings, metrics).await;
    let link = link.map_err(|error| Failure::while_doing("reach the broker", error.fault()))?;
    let done = run(&DeadLetters::new(link.clone()), screen, confirm, command).await;
    link.close().await;
    done
}

async fn run(dead: &DeadLetters, screen: &mut Screen, confirm: Option<Confirm>, command: &Dead) -> Result<Exit, Failure> {
    let broken = |doing: &str, error: &epu_bus::amqp::Error| Failure::while_doing(doing, error.fault());
    match command {
        Dead::List { most } => {
            let letters = dead.list(*most).await.map_err(|error| broken("list dead letters", &error))?;
            screen.answer(&letters, |_| list(&letters))?;
        }
        Dead::Show { id } => {
            let letters = dead.list(usize::MAX).await.map_err(|error| broken("list dead letters", &error))?;
            let letter = letters
                .iter()
                .find(|letter| letter.id == *id)
                .ok_or_else(|| missing(&[id.clone()].into()))?;
            screen.answer(letter, |_| whole(letter))?;
        }
        Dead::Replay(letters) => settle(dead, screen, Fate::Replay, letters).await?,
        Dead::Drop { letters, yes } => {
            if !yes {
                confirmed(confirm, letters)?;
            }
            settle(dead, screen, Fate::Drop, letters).await?;
        }
    }
    Ok(Exit::Done)
}

async fn settle(dead: &DeadLetters, screen: &mut Screen, fate: Fate, letters: &Letters) -> Result<(), Failure> {
    let (doing, done) = match fate {
        Fate::Replay => ("replay dead letters", "replayed"),
        Fate::Drop => ("drop dead letters", "dropped"),
    };
    let wanted: BTreeSet<String> = letters.ids.iter().cloned().collect();
    let settled = dead.settle(fate, |letter| letters.all || wanted.contains(&letter.id)).await;
    let settled = settled.map_err(|error| Failure::while_doing(doing, error.fault()))?;
    screen.answer(&settled, |_| format!("{done}: {}\n", settled.len()))?;
    let found: BTreeSet<String> = settled.into_iter().map(|letter| letter.id).collect();
    let absent: BTreeSet<String> = wanted.difference(&found).cloned().collect();
    if absent.is_empty() { Ok(()) } else { Err(missing(&absent)) }
}

fn missing(ids: &BTreeSet<String>) -> Failure {
    let ids: Vec<String> = ids.iter().map(|id| line(id)).collect();
    Failure::Usage(format!("no dead letter is called {}; see `epumgmt dead list`", ids.join(" or ")))
}

fn confirmed(confirm: Option<Confirm>, letters: &Letters) -> Result<(), Failure> {
    let Some(ask) = confirm else {
        return Err(Failure::Usage(
            "a dropped letter is gone for good; nobody is there to confirm it, so pass --yes".to_owned(),
        ));
    };
    let what = match (letters.all, letters.ids.len()) {
        (true, _) => "all dead letters".to_owned(),
        (false, 1) => "one dead letter".to_owned(),
        (false, count) => format!("{count} dead letters"),
    };
    let answer = ask(&format!("This forgets {what} for good.\nType yes to go on: "))?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::Usage("not confirmed; nothing was done".to_owned()))
}

/// A line a letter: when, its id, why, for which service, from whom, what.
fn list(letters: &[Letter]) -> String {
    if letters.is_empty() {
        return "there are no dead letters\n".to_owned();
    }
    letters
        .iter()
        .map(|letter| {
            let text: String = line(&letter.text).chars().take(TEXT_MAX).collect();
            let (id, reason, key, user) = (line(&letter.id), line(&letter.reason), line(&letter.key), line(&letter.user));
            format!("{} {id:<12} {reason:<11} {key:<12} {user:<12} {text}\n", letter.at)
        })
        .collect()
}

/// A text as one line.
fn line(text: &str) -> String {
    harmless(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn whole(letter: &Letter) -> String {
    let body = serde_json::from_str::<Value>(&letter.body).and_then(|body| serde_json::to_string_pretty(&body));
    // Text from a stranger is shown line by line, so that it cannot pretend to be ours.
    let body = body.unwrap_or_else(|_| letter.body.clone());
    let body: Vec<String> = body.lines().map(|line| format!("  {}", harmless(line))).collect();
    let mut lines = vec![
        format!("letter      {}", line(&letter.id)),
        format!("put here    {}", letter.at),
        format!("because     {} ({})", line(&letter.text), line(&letter.reason)),
        format!("was in      {} (key {})", line(&letter.queue), line(&letter.key)),
        format!("sent by     {}", line(&letter.user)),
    ];
    if let Some(on_behalf_of) = &letter.on_behalf_of {
        lines.push(format!("for         {}", line(on_behalf_of)));
    }
    lines.push(format!("says        {} bytes", letter.bytes));
    lines.extend(body);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use epu_core::time::Timestamp;

    use super::*;

    fn letter() -> Letter {
        Letter {
            id: "0a1b2c3d4e5f".to_owned(),
            reason: "bad-request".to_owned(),
            text: "read the request: unknown variant `dance`".to_owned(),
            key: "controller".to_owned(),
            queue: "epu.epu.controller".to_owned(),
            user: "ada\u{1b}[31m".to_owned(),
            on_behalf_of: None,
            at: Timestamp(1_763_856_000_000),
            bytes: 24,
            body: r#"{"op":"dance","args":{}}"#.to_owned(),
        }
    }

    #[test]
    fn a_letter_is_a_line_or_all_that_is_known_and_never_writes_to_the_terminal_itself() {
        let line = list(&[letter()]);
        assert!(
            line.contains("0a1b2c3d4e5f") && line.contains("controller") && line.contains("dance"),
            "{line}"
        );
        let shown = whole(&letter());
        assert!(
            shown.contains("\"op\": \"dance\"") && shown.contains("epu.epu.controller"),
            "{shown}"
        );
        for text in [line, shown] {
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        assert_eq!(list(&[]), "there are no dead letters\n");
    }

    #[test]
    fn nothing_is_dropped_without_a_yes() {
        let letters = Letters {
            ids: vec!["a".to_owned()],
            all: false,
        };
        assert!(matches!(confirmed(None, &letters), Err(Failure::Usage(_))));
        assert!(confirmed(Some(|_| Ok("no\n".to_owned())), &letters).is_err());
        assert!(confirmed(Some(|_| Ok("yes\n".to_owned())), &letters).is_ok());
    }
}
