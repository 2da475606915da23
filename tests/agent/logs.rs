//! What a container wrote last, beside what its client has told of its connection.

use std::time::Duration;

use serde_json::{Value, json};

use super::{admin, engine::Engine, ground, heard_after, host};
use crate::harness::{
    Ground, Person, agent::Machine, fleet, process::Process, servers::free_port, until,
    until_within,
};

/// A server, an agent beside an engine of the test, and somebody with a container there.
struct Beside {
    ground: Ground,
    serve: Process,
    agent: Process,
    engine: Engine,
    host: String,
    ada: Person,
    container: String,
}

impl Beside {
    async fn start() -> Self {
        // The simulated engine forgets with its server; nobody is to make anything anew for that.
        let ground = ground()
            .await
            .with("PORT", &free_port().to_string())
            .with("RECONCILE", "off");
        let serve = Process::start(&ground, "serve").await;
        let admin = admin(&serve).await;
        let cluster = fleet::cluster(&admin, "logs", "us-east-1").await;
        let token = fleet::invitation(&admin, &cluster).await;
        let engine = Engine::start().await;
        let address = format!("tcp://{}", engine.address);
        let machine = Machine::with_engine(&ground, serve.address.unwrap(), "machine-1", &address);
        let agent = machine.start(&ground, Some(&token)).await;
        let ada = serve.person().sign_up("ada").await;
        let container = ada.create("hello").await.container;
        ada.container_in(&container, "RUNNING").await;
        engine.run(&container);
        until("its log is read", async || {
            (engine.readers(&container) > 0).then_some(())
        })
        .await;
        Self {
            host: machine.agent().email,
            ground,
            serve,
            agent,
            engine,
            ada,
            container,
        }
    }

    /// The owner's client tells of its connection; the record's id.
    async fn report(&self) -> String {
        const REPORT: &str = "mutation($input: ReportConnectionInput!) { reportConnection(input: $input) { connectionLog { id } } }";
        let input = json!({ "to": { "container": self.container }, "clientVersion": "1.0" });
        let reply = self.ada.send(REPORT, json!({ "input": input })).await;
        reply.text("/reportConnection/connectionLog/id")
    }

    /// What the host has written, once it is there, and the version of the record.
    async fn written(&self, connection: &str) -> (String, Value) {
        let ask = format!("{{ connectionLogText(id: \"{connection}\", side: SERVER) }}");
        let patience = Duration::from_secs(60);
        let text = until_within(patience, "the host's log is there", async || {
            let reply = self.ada.ask(&ask).await;
            Some(reply.at("/connectionLogText").as_str()?.to_owned())
        })
        .await;
        let ask = format!("{{ connectionLog(id: \"{connection}\") {{ version }} }}");
        let version = self.ada.ask(&ask).await.ok("/connectionLog/version");
        (text, version)
    }

    async fn stop(self) {
        drop((self.agent, self.serve));
        self.ground.clear().await;
    }
}

#[tokio::test]
async fn the_log_of_a_container_that_was_removed_is_sent_once() {
    let beside = Beside::start().await;
    let connection = beside.report().await;
    for line in ["a client is here", "\u{1b}[1mit \"streams\"", "the end"] {
        beside.engine.write(&beside.container, line);
    }
    // An engine has nothing of it any more by the time that anybody hears of its end.
    beside.engine.remove(&beside.container);
    let (text, version) = beside.written(&connection).await;
    assert_eq!(
        text,
        "2026-11-28T12:00:00.123Z a client is here\n2026-11-28T12:00:00.123Z \u{1b}[1mit \"streams\"\n\
         2026-11-28T12:00:00.123Z the end\n"
    );
    assert_eq!(version, 2);
    beside.stop().await;
}

#[tokio::test]
async fn a_log_waits_for_its_connection_and_for_its_server() {
    let Beside {
        ground,
        serve,
        agent,
        engine,
        host: id,
        ada,
        container,
    } = Beside::start().await;
    engine.write(&container, "the last words");
    let admin = admin(&serve).await;
    let number = host(&admin, &id).await["heartbeat"].as_i64();
    serve.signal("-STOP").await;
    engine.exit(&container);
    serve.kill().await;
    let beside = Beside {
        serve: Process::start(&ground, "serve").await,
        ground,
        agent,
        engine,
        host: id,
        ada,
        container,
    };
    heard_after(&admin, &beside.host, number.unwrap()).await;
    beside.ada.container_in(&beside.container, "FAILED").await;
    // The client comes to tell of it only now.
    let connection = beside.report().await;
    let (text, version) = beside.written(&connection).await;
    assert!(text.ends_with(" the last words\n"), "{text}");
    assert_eq!(version, 2);
    // All is told again over another connection, and this is not.
    beside.agent.signal("-HUP").await;
    let number = host(&admin, &beside.host).await["heartbeat"].as_i64();
    heard_after(&admin, &beside.host, number.unwrap() + 2).await;
    assert_eq!(beside.written(&connection).await.1, 2);
    beside.stop().await;
}
