//! What operators ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use epu_controller::service::FileConfig;
use epu_core::Fault;
use epu_core::id::{InstanceId, PoolName};
use epu_core::instance::{Cause, Work};
use epu_core::lease::{Domain, LeaseAsk, Member};
use epu_core::pool::Paused;
use epu_core::request::{
    Caller, Nothing, PoolChange, PoolFile, PoolPause, PoolRef, PoolRemove, Protect, Request, Service, Teardown, Terminate,
};
use epu_core::time::Span;
use epu_store::Store as _;
use serde_json::{Value, json};

use crate::process::Process;
use crate::world::World;

impl World {
    /// Asks as an operator.
    ///
    /// # Errors
    /// What the service answered.
    pub fn ask(&mut self, request: Request) -> Result<Value, Fault> {
        self.transcript.note(format_args!("an operator asks {}", request.op()));
        self.ask_quietly(request)
    }

    /// Asks one process as an operator, whose turn it may not be.
    ///
    /// # Errors
    /// What it answered.
    ///
    /// # Panics
    /// When this process does not run.
    pub fn ask_through(&mut self, process: impl Into<Process>, request: Request) -> Result<Value, Fault> {
        self.ask_through_as(process, Caller::Operator("operator".to_owned()), request)
    }

    /// Asks one process as somebody else.
    ///
    /// # Errors
    /// What it answered.
    ///
    /// # Panics
    /// When this process does not run.
    pub fn ask_through_as(&mut self, process: impl Into<Process>, caller: Caller, request: Request) -> Result<Value, Fault> {
        let name = self.member(process.into());
        self.transcript.note(format_args!("{} asks {name} {}", caller.name(), request.op()));
        self.watched(&request.clone(), || {
            let asking = self.net.ask_process(&name, caller, request, Duration::from_secs(30));
            self.runtime.block_on(asking).map(epu_core::request::Answer::into_json)
        })
    }

    /// Adds a pool beside the one of the setup, with the setup's template.
    ///
    /// # Errors
    /// What the controller answered.
    pub fn try_add(&mut self, name: &str, pool: &Value) -> Result<Value, Fault> {
        let text = json!({ "templates": { "worker": self.template }, "pools": { name: pool } }).to_string();
        let file = "world.yaml".to_owned();
        self.ask(Request::PoolAdd(PoolFile { file, text }))
    }

    /// Adds pools that keep `n` workers each.
    ///
    /// # Panics
    /// When one is refused.
    pub fn add_keeping(&mut self, names: &[&str], n: u32) -> &mut Self {
        for name in names {
            let pool = json!({ "template": "worker", "max": n.max(10), "engine": { "keep": { "n": n } } });
            if let Err(fault) = self.try_add(name, &pool) {
                panic!("add {name}: {fault}\n{}", self.story());
            }
        }
        self
    }

    /// What pools that are added or read from now on have for a template.
    pub fn template(&mut self, template: Value) -> &mut Self {
        self.template = template;
        self
    }

    /// Every controller reads this config file anew: pools that keep `n` workers each.
    ///
    /// # Panics
    /// When it has faults.
    pub fn config_file(&mut self, pools: &[&str], n: u32) -> &mut Self {
        let before = FileConfig::clone(&self.file.borrow());
        let settings = json!({ "template": "worker", "max": n.max(10), "engine": { "keep": { "n": n } } });
        let all: BTreeMap<&str, &Value> = pools.iter().map(|name| (*name, &settings)).collect();
        let text = json!({ "templates": { "worker": self.template }, "pools": all }).to_string();
        let path = "epu.yaml".to_owned();
        let pools = epu_controller::spec::read(&path, &text, &before.known);
        let pools = pools.unwrap_or_else(|fault| panic!("the config file: {fault}"));
        self.file.send_replace(Arc::new(FileConfig { path, pools, ..before }));
        self
    }

    /// Somebody who is no process of this world takes everything from a controller that knows nothing of it, or goes again.
    ///
    /// # Panics
    /// When the store is failing.
    pub fn usurp(&mut self, process: impl Into<Process>, there: bool) -> &mut Self {
        // One that does not run has nothing.
        let name = self.name_now(process.into());
        let usurper = "usurper".to_owned();
        let taking = async {
            if !there {
                return self.memory.leave(&usurper).await;
            }
            let member = Member {
                name: usurper,
                service: Service::Controller,
                url: None,
                since: self.now(),
            };
            if let Some(name) = &name {
                self.memory.leave(name).await?;
            }
            let want = Domain::all(Service::Controller).into_iter().collect();
            let lasts = Span::secs(3_600);
            self.memory.lease(LeaseAsk { member, want, lasts }).await.map(drop)
        };
        if let Err(error) = self.runtime.block_on(taking) {
            panic!("usurp: {error}");
        }
        self.watch.works("leadership", !there, self.now());
        self
    }

    /// Says something in the transcript.
    pub(crate) fn tell(&self, what: impl std::fmt::Display) {
        self.transcript.note(what);
    }

    /// An operator asks and does not wait; the answer goes into the transcript.
    pub(crate) fn send(&mut self, request: Request) {
        let (op, net, transcript) = (request.op(), self.net.clone(), self.transcript.clone());
        transcript.note(format_args!("an operator asks {op}"));
        self.inside(|| {
            tokio::spawn(async move {
                let operator = Caller::Operator("operator".to_owned());
                match net.operator_asks(operator, request, Duration::from_secs(30)).await {
                    Ok(_) => transcript.note(format_args!("{op} is done")),
                    Err(fault) => transcript.note(format_args!("{op} is refused: {fault}")),
                }
            });
        });
    }

    /// Adds a pool of the setup again.
    pub(crate) fn add_again(&mut self, name: &str) {
        let Some(settings) = self.setup.all_pools().get(name).map(|settings| (*settings).clone()) else {
            return;
        };
        let text = json!({ "templates": { "worker": self.template }, "pools": { name: settings } }).to_string();
        let file = "world.yaml".to_owned();
        self.send(Request::PoolAdd(PoolFile { file, text }));
    }

    /// A pool's template becomes one that was not there before.
    pub(crate) fn another_template(&mut self, pool: &str) {
        let Ok(pool) = PoolName::new(pool) else { return };
        let mut template = self.template.clone();
        template["env"] = json!({ "REVISION": format!("{}", self.now().0) });
        let Ok(template) = serde_json::from_value(template) else { return };
        self.send(Request::PoolReconfigure(PoolChange {
            pool,
            set: BTreeMap::new(),
            template: Some(Box::new(template)),
            if_revision: None,
        }));
    }

    pub(super) fn ask_quietly(&self, request: Request) -> Result<Value, Fault> {
        self.watched(&request.clone(), || {
            let operator = Caller::Operator("operator".to_owned());
            let asking = self.net.operator_asks(operator, request, Duration::from_secs(30));
            self.runtime.block_on(asking).map(epu_core::request::Answer::into_json)
        })
    }

    /// Asks something, and has it watched that what is refused changes nothing.
    pub(super) fn watched(&self, request: &Request, ask: impl FnOnce() -> Result<Value, Fault>) -> Result<Value, Fault> {
        let is_command = !request.is_question();
        let now = || {
            is_command
                .then(|| self.runtime.block_on(crate::watch::settings(&self.memory)))
                .flatten()
        };
        let before = now();
        let answer = ask();
        if is_command {
            let fault = answer.as_ref().err();
            let after = fault.and_then(|_| now());
            self.watch.answered(request.op(), fault, before.zip(after));
        }
        answer
    }

    fn must(&mut self, request: Request) -> &mut Self {
        let op = request.op();
        if let Err(fault) = self.ask(request) {
            panic!("{op}: {fault}\n{}", self.story());
        }
        self
    }

    fn pool_name(&self) -> PoolName {
        self.pool.clone()
    }

    /// Asks for one of the pool's settings to be changed, by its dotted path.
    ///
    /// # Errors
    /// What the controller answered.
    pub fn try_reconfigure(&mut self, path: &str, value: impl Into<Value>) -> Result<Value, Fault> {
        let pool = self.pool_name();
        self.ask(Request::PoolReconfigure(PoolChange {
            pool,
            set: BTreeMap::from([(path.to_owned(), value.into())]),
            template: None,
            if_revision: None,
        }))
    }

    /// Changes one of the pool's settings, by its dotted path.
    ///
    /// # Panics
    /// When it is refused.
    pub fn reconfigure(&mut self, path: &str, value: impl Into<Value>) -> &mut Self {
        if let Err(fault) = self.try_reconfigure(path, value) {
            panic!("reconfigure {path}: {fault}\n{}", self.story());
        }
        self
    }

    /// Makes the pool keep another number.
    pub fn keep(&mut self, n: u32) -> &mut Self {
        self.reconfigure("engine.keep.n", n)
    }

    /// Keeps the pool from doing something.
    pub fn pause(&mut self, paused: Paused) -> &mut Self {
        let pool = self.pool_name();
        self.must(Request::PoolPause(PoolPause { pool, paused }))
    }

    /// Lets the pool do everything again.
    pub fn resume(&mut self) -> &mut Self {
        let pool = self.pool_name();
        self.must(Request::PoolResume(PoolRef { pool }))
    }

    /// Removes the pool.
    pub fn remove(&mut self, force: bool) -> &mut Self {
        let pool = self.pool_name();
        self.must(Request::PoolRemove(PoolRemove { pool, force }))
    }

    /// Protects an instance from scale-in, or no longer.
    pub fn protect(&mut self, id: &InstanceId, on: bool) -> &mut Self {
        self.must(Request::Protect(Protect { instances: vec![*id], on }))
    }

    /// Asks for an instance to be ended at once, whatever it does.
    ///
    /// # Errors
    /// What the provisioner answered.
    pub fn try_kill(&mut self, id: &InstanceId) -> Result<Value, Fault> {
        self.ask(Request::Terminate(Terminate {
            instances: vec![(*id, Work::Unknown)],
            why: Cause::Operator,
            epoch: 0,
        }))
    }

    /// Ends an instance at once, whatever it does.
    ///
    /// # Panics
    /// When that is refused.
    pub fn kill(&mut self, id: &InstanceId) -> &mut Self {
        if let Err(fault) = self.try_kill(id) {
            panic!("kill {id}: {fault}\n{}", self.story());
        }
        self
    }

    /// Closes the installation and empties it.
    pub fn tear_down(&mut self, force: bool) -> &mut Self {
        self.must(Request::Teardown(Teardown { force, within: None }))
    }

    /// Opens it again.
    pub fn open(&mut self) -> &mut Self {
        self.must(Request::Open(Nothing {}))
    }
}
