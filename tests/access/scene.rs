//! A service with an owner, another user and an administrator, each with rows, and nobody.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use main_webserver::{
    app::Role,
    domain::{
        Id,
        id::{Host, User},
        policy::{Action, Resource, Scope, Viewer, scope},
    },
    store::{archive, containers, images, machines, regions, schedules, tasks},
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Ground, Person, QUICK, World, client::PASSWORD, until};

/// Somebody who asks, and what the policy takes them for.
pub struct Asking {
    pub name: &'static str,
    pub person: Person,
    pub viewer: Viewer,
}

impl Asking {
    /// Whether the policy lets them see a row of the resource that `owner` owns.
    pub fn reaches(
        &self,
        action: Action,
        resource: Resource,
        owner: Option<Id<User>>,
        host: Option<Id<Host>>,
    ) -> bool {
        match scope(self.viewer, action, resource) {
            Scope::Everything => true,
            Scope::OwnedBy(user) => owner == Some(user),
            Scope::OnHost(it) => host == Some(it),
            Scope::Nothing => false,
        }
    }
}

pub struct Scene {
    pub world: World,
    pub nobody: Asking,
    pub owner: Asking,
    pub other: Asking,
    pub admin: Asking,
    /// The agent of the host the owner's container is on.
    pub host: Asking,
    /// One of the owner's rows of each type, and rows nobody owns.
    pub rows: BTreeMap<&'static str, String>,
    /// What stands in the owner's rows and in nobody else's.
    pub marks: Vec<String>,
}

const FAR: Uuid = Uuid::from_u128(1);

fn uuid(id: &str) -> Uuid {
    Uuid::try_parse(id.rsplit_once('_').unwrap().1).unwrap()
}

async fn asking(name: &'static str, person: Person) -> Asking {
    let viewer = person.ask("{ viewer { id role } }").await;
    let id = Id::parse(&viewer.text("/viewer/id")).unwrap();
    let session = Id::new(FAR);
    // Every kind of viewer the policy knows, so that a new one is missed here.
    let by_role = |viewer: Viewer| match viewer {
        Viewer::Anonymous | Viewer::Host { .. } | Viewer::System => {
            unreachable!("nobody logs in as {viewer:?}")
        }
        Viewer::User { .. } | Viewer::Admin { .. } => viewer,
    };
    let viewer = if viewer.text("/viewer/role") == "ADMIN" {
        by_role(Viewer::Admin { id, session })
    } else {
        by_role(Viewer::User { id, session })
    };
    Asking {
        name,
        person,
        viewer,
    }
}

/// A running container, an ended task, an archived one, and the session they were asked for in.
async fn rows_of(world: &World, who: &Asking) -> BTreeMap<&'static str, String> {
    let person = &who.person;
    let created = person.create("hello").await;
    person.task_in(&created.task, "SUCCEEDED").await;
    let task = person.demo(2, 1).await;
    person.task_in(&task, "SUCCEEDED").await;
    let user = who.viewer.user().unwrap();
    let archived = world.store().entropy.uuid(world.store().now());
    let at: DateTime<Utc> = "2024-02-29T12:00:00Z".parse().unwrap();
    let row = archive::ActiveModel {
        id: Set(archived),
        kind: Set("demo".to_owned()),
        owner_id: Set(Some(user.uuid())),
        state: Set("succeeded".to_owned()),
        finished_at: Set(at),
        // The archive drops what is too old.
        archived_at: Set(world.store().now()),
        document: Set(json!({ "input": { "of": person.email } })),
    };
    let db = world.store().db();
    archive::Entity::insert(row)
        .exec_without_returning(db)
        .await
        .unwrap();
    let machine = person.running_machine().await;
    let snapshot = person.snapshot_of(&machine, &person.email).await;
    let reported = person
        .ask(&format!(
            "mutation {{ reportConnection(input: {{to: {{container: \"{}\"}}, clientVersion: \"1.0\", log: \"of {}\"}}) \
             {{ connectionLog {{ id }} }} }}",
            created.container, person.email
        ))
        .await;
    let session = person.ask("{ sessions(first: 1) { nodes { id } } }").await;
    BTreeMap::from([
        ("User", user.to_string()),
        ("Session", session.text("/sessions/nodes/0/id")),
        (
            "ConnectionLog",
            reported.text("/reportConnection/connectionLog/id"),
        ),
        ("Container", created.container),
        ("VirtualMachine", machine),
        ("Snapshot", snapshot),
        ("Task", task),
        ("ArchivedTask", format!("task_{}", archived.simple())),
    ])
}

/// A cluster with a host that is heard of, a pool, what the engine is like, and the first line of the audit log.
async fn fleet(world: &World, admin: &Person, rows: &mut BTreeMap<&'static str, String>) -> Asking {
    let (cluster, agent) =
        crate::harness::fleet::host(admin, "west", "us-west-2", "machine-1").await;
    let host: Id<Host> = Id::parse(&agent.email).unwrap();
    let pool = "mutation { setWarmPool(input: {app: \"hello\", region: \"us-west-1\", size: 0}) { warmPool { id } } }";
    let pool = admin.ask(pool).await;
    rows.insert("WarmPool", pool.text("/setWarmPool/warmPool/id"));
    let engine = until("the engine has been looked at", async || {
        let engines = admin.ask("{ engines { nodes { id } } }").await;
        engines.at("/engines/nodes").pointer("/0/id").cloned()
    });
    rows.insert("Engine", engine.await.as_str().unwrap().to_owned());
    let audit = admin.ask("{ auditEvents(last: 1) { nodes { id } } }").await;
    rows.insert("AuditEvent", audit.text("/auditEvents/nodes/0/id"));
    let login = admin.ask("{ loginEvents(last: 1) { nodes { id } } }").await;
    rows.insert("LoginEvent", login.text("/loginEvents/nodes/0/id"));
    containers::Entity::update_many()
        .col_expr(containers::Column::HostId, Expr::value(host.uuid()))
        .col_expr(containers::Column::ClusterId, Expr::value(uuid(&cluster)))
        .col_expr(containers::Column::Node, Expr::value("node-1"))
        .filter(containers::Column::Id.eq(uuid(&rows["Container"])))
        .exec(world.store().db())
        .await
        .unwrap();
    machines::Entity::update_many()
        .col_expr(machines::Column::HostId, Expr::value(host.uuid()))
        .col_expr(machines::Column::ClusterId, Expr::value(uuid(&cluster)))
        .filter(machines::Column::Id.eq(uuid(&rows["VirtualMachine"])))
        .exec(world.store().db())
        .await
        .unwrap();
    rows.insert("Cluster", cluster);
    rows.insert("Host", host.to_string());
    Asking {
        name: "the host",
        person: agent,
        viewer: Viewer::Host { id: host },
    }
}

impl Scene {
    pub async fn set() -> Self {
        // Nothing changes by itself while everybody looks.
        let ground = Ground::new().await;
        let backups = format!("file://{}/backups", ground.folder().display());
        let ground = ground
            .with("BACKUP_URL", &backups)
            .with("RECONCILE_SECONDS", "3600")
            .with("MACHINES_PER_OWNER", "1000")
            .with("HOST_STALE_SECONDS", "80000")
            .with("HOST_DEAD_SECONDS", "90000");
        let ground = crate::configuration::with_database(ground).await;
        let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
        let nobody = Asking {
            name: "nobody",
            person: world.anonymous(),
            viewer: Viewer::Anonymous,
        };
        let admin = asking("the administrator", world.admin().await).await;
        let store = "mutation { setConfigValue(input: {environment: DEV, name: \"TASKS_TOTAL\", value: \"1000\"}) { applied } }";
        admin.person.ask(store).await.ok("/setConfigValue");
        let backup = admin
            .person
            .ask("mutation { backUp(input: {}) { task { id } } }");
        let backup = backup.await.text("/backUp/task/id");
        admin.person.task_in(&backup, "SUCCEEDED").await;
        let other = asking("another user", world.person("zoe").await).await;
        let owner = asking("the owner", world.person("ada").await).await;
        let others = rows_of(&world, &other).await;
        let mut rows = rows_of(&world, &owner).await;
        let mut marks: Vec<String> = rows.values().cloned().collect();
        marks.push(owner.person.email.clone());
        let schedule = "mutation { putSchedule(input: {name: \"nightly\", kind: \"noop\", cron: \"0 0 1 1 *\"}) { schedule { id } } }";
        let schedule = admin
            .person
            .ask(schedule)
            .await
            .text("/putSchedule/schedule/id");
        marks.push(schedule.clone());
        let catalogue = "{ apps(filter: {slug: {eq: \"hello\"}}) { nodes { id } } regions(first: 1) { nodes { id } } machineImages { nodes { id } } }";
        let catalogue = nobody.person.ask(catalogue).await;
        rows.insert("Schedule", schedule);
        rows.insert("App", catalogue.text("/apps/nodes/0/id"));
        rows.insert("MachineImage", catalogue.text("/machineImages/nodes/0/id"));
        rows.insert("Region", catalogue.text("/regions/nodes/0/id"));
        let db = world.store().db();
        // A schedule that has made one of the owner's tasks, and one of the owner's tasks below another user's.
        schedules::Entity::update_many()
            .col_expr(
                schedules::Column::LastTaskId,
                Expr::value(uuid(&rows["Task"])),
            )
            .col_expr(schedules::Column::LastAt, Expr::value(world.store().now()))
            .exec(db)
            .await
            .unwrap();
        tasks::Entity::update_many()
            .col_expr(tasks::Column::WorkerId, Expr::value(FAR))
            .col_expr(tasks::Column::ParentId, Expr::value(uuid(&others["Task"])))
            .filter(tasks::Column::Id.eq(uuid(&rows["Task"])))
            .exec(db)
            .await
            .unwrap();
        // An image with everything that only administrators see.
        let path = Expr::value("secret/path");
        images::Entity::update_many()
            .col_expr(images::Column::Kernel, path.clone())
            .col_expr(images::Column::Initrd, path.clone())
            .col_expr(images::Column::CommandLine, path.clone())
            .col_expr(images::Column::ReadyText, path)
            .exec(db)
            .await
            .unwrap();
        let host = fleet(&world, &admin.person, &mut rows).await;
        regions::Entity::update_many()
            .col_expr(regions::Column::Provider, Expr::value("simulated"))
            .exec(db)
            .await
            .unwrap();
        Self {
            world,
            nobody,
            owner,
            other,
            admin,
            host,
            rows,
            marks,
        }
    }

    pub const fn viewers(&self) -> [&Asking; 5] {
        [
            &self.nobody,
            &self.owner,
            &self.other,
            &self.admin,
            &self.host,
        ]
    }

    pub fn host_id(&self) -> Id<Host> {
        Id::parse(&self.rows["Host"]).unwrap()
    }

    /// A registration token.
    pub async fn invitation(&self) -> String {
        crate::harness::fleet::invitation(&self.admin.person, &self.rows["Cluster"]).await
    }

    /// Another host, to be spoiled.
    pub async fn spare_host(&self, name: &str) -> String {
        let token = self.invitation().await;
        let agent = crate::harness::fleet::register(&self.nobody.person, &token, name).await;
        agent.email
    }

    /// Another cluster, to be spoiled.
    pub async fn spare_cluster(&self, name: &str) -> String {
        crate::harness::fleet::cluster(&self.admin.person, name, "ca-central-1").await
    }

    /// A command the host has been told.
    pub async fn command(&self) -> String {
        let told = format!(
            "mutation {{ sendClusterCommand(input: {{id: \"{}\", command: DIAGNOSE}}) {{ task {{ id }} }} }}",
            self.rows["Cluster"]
        );
        self.admin.person.ask(&told).await.ok("/sendClusterCommand");
        let mut socket = self.host.person.socket().await;
        socket
            .subscribe("subscription { hostCommands { id } }")
            .await;
        let newest = async {
            loop {
                let frame = socket.hear().await.unwrap();
                let commands = frame["payload"]["data"]["hostCommands"].as_array().unwrap();
                if let Some(command) = commands.last() {
                    return command["id"].as_str().unwrap().to_owned();
                }
            }
        };
        newest.await
    }

    /// What of the owner's an answer has that should have nothing of it.
    pub fn leaks(&self, answer: &Value) -> Vec<&str> {
        let text = answer.to_string();
        let seen = self.marks.iter().filter(|mark| text.contains(&***mark));
        seen.map(String::as_str).collect()
    }

    /// A task of the owner that no worker takes; `demo` has to be paused.
    pub async fn queued(&self) -> String {
        self.owner.person.demo(1, 1).await
    }

    /// A dead letter of the owner.
    pub async fn failed(&self) -> String {
        let task = self.queued().await;
        let now = self.world.store().now();
        tasks::Entity::update_many()
            .col_expr(tasks::Column::State, Expr::value("failed"))
            .col_expr(tasks::Column::FinishedAt, Expr::value(now))
            .filter(tasks::Column::Id.eq(uuid(&task)))
            .exec(self.world.store().db())
            .await
            .unwrap();
        task
    }

    /// A person's newest login, so that ending it ends nothing else.
    pub async fn log_in(&self, who: &Asking) -> Person {
        match who.viewer {
            Viewer::Anonymous | Viewer::Host { .. } | Viewer::System => who.person.clone(),
            Viewer::Admin { .. } => self.world.admin().await,
            Viewer::User { .. } => who.person.log_in(&who.person.email, PASSWORD).await,
        }
    }
}
