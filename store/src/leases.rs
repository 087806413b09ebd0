//! Who leads what, in SQL. One text, compiled once for each database.

use std::borrow::Cow;

use epu_core::lease::{Lease, LeaseAsk, Member, Standing, Term};
use epu_core::time::Timestamp;
use sqlx::{Row as _, query};

use super::records::record;
use super::{Connection, NOW, Own, STAND};
use crate::row::{body, number};
use crate::stop::Stop;
use crate::{Error, sql};

impl Own {
    pub(super) async fn renew(&self, ask: &LeaseAsk) -> Result<Standing, Stop> {
        let mut tx = self.begin().await?;
        let now: i64 = query(NOW).fetch_one(&mut *tx).await?.try_get(0)?;
        let until = now.saturating_add(number(
            u64::try_from(ask.lasts.as_millis()).unwrap_or(u64::MAX),
            "a lease's length",
        )?);
        let me = ask.member.name.as_str();
        query(sql::FORGET_MEMBERS).bind(now).execute(&mut *tx).await?;
        query(sql::PUT_MEMBER)
            .bind(me)
            .bind(until)
            .bind(body(&ask.member, "a member")?)
            .execute(&mut *tx)
            .await?;
        if !ask.member.leads() {
            let members = members(&mut tx, now).await?;
            self.commit(tx).await?;
            return Ok(Standing {
                members,
                ..Standing::default()
            });
        }
        query(sql::RENEW_LEASES).bind(me).bind(until).execute(&mut *tx).await?;
        let mut standing = standing(&mut tx, now).await?;
        let wanted: Vec<&'static str> = ask.want.iter().map(|domain| domain.name()).collect();
        let mut changed = false;
        for lease in standing.leases.iter().filter(|lease| lease.holder.as_deref() == Some(me)) {
            if !wanted.contains(&lease.name.as_ref()) {
                query(sql::GIVE_LEASE)
                    .bind(lease.name.as_ref())
                    .bind(me)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
                changed = true;
            }
        }
        for name in wanted {
            if standing.leases.iter().all(|lease| lease.name != name || lease.holder.is_none()) {
                query(sql::TAKE_LEASE)
                    .bind(name)
                    .bind(me)
                    .bind(now)
                    .bind(until)
                    .execute(&mut *tx)
                    .await?;
                changed = true;
            }
        }
        if changed {
            standing = self::standing(&mut tx, now).await?;
        }
        self.commit(tx).await?;
        Ok(standing)
    }

    pub(super) async fn give_all_back(&self, member: &str) -> Result<(), Stop> {
        let mut tx = self.begin().await?;
        let now: i64 = query(NOW).fetch_one(&mut *tx).await?.try_get(0)?;
        query(sql::GIVE_LEASES).bind(member).bind(now).execute(&mut *tx).await?;
        query(sql::FORGET_MEMBER).bind(member).execute(&mut *tx).await?;
        self.commit(tx).await
    }

    pub(super) async fn read_standing(&self) -> Result<Standing, Stop> {
        let mut reader = self.readers().acquire().await?;
        let now: i64 = query(NOW).fetch_one(&mut *reader).await?.try_get(0)?;
        standing(&mut reader, now).await
    }
}

/// Refuses when a term is over. One that is only out of time still stands as long as nobody took it.
pub(super) async fn stand(of: &mut Connection, terms: impl IntoIterator<Item = Term>) -> Result<(), Stop> {
    for term in terms {
        let row = query(STAND).bind(term.domain.name()).fetch_optional(&mut *of).await?;
        let stands = row
            .map(|row| {
                Ok::<_, sqlx::Error>(
                    row.try_get::<i64, _>(1)? == number(term.epoch, "an epoch").unwrap_or(-1) && !row.try_get::<&str, _>(0)?.is_empty(),
                )
            })
            .transpose()?;
        if stands != Some(true) {
            return Err(Stop::Said(Error::Deposed(term)));
        }
    }
    Ok(())
}

async fn standing(of: &mut Connection, now: i64) -> Result<Standing, Stop> {
    let mut leases = Vec::new();
    for row in query(sql::LEASES).fetch_all(&mut *of).await? {
        let holder: String = row.try_get(1)?;
        let is_held = !holder.is_empty() && row.try_get::<i64, _>(4)? > now;
        leases.push(Lease {
            name: Cow::Owned(row.try_get(0)?),
            holder: is_held.then(|| holder.into()),
            epoch: u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default(),
            since: Timestamp(row.try_get(3)?),
        });
    }
    leases.sort_by(|a, b| a.name.cmp(&b.name));
    let members = members(of, now).await?;
    let leases = leases.into();
    Ok(Standing { members, leases })
}

/// Those that live, by name.
async fn members(of: &mut Connection, now: i64) -> Result<Vec<Member>, Stop> {
    let rows = query(sql::MEMBERS).bind(now).fetch_all(&mut *of).await?;
    let mut members = rows
        .iter()
        .map(|row| record::<Member>("member", row))
        .collect::<Result<Vec<_>, _>>()?;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}
