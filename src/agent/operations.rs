//! What an agent asks the server for, and what the answers mean.

use serde::Deserialize;

/// A text, and the field of the answer that is meant.
#[derive(Clone, Copy)]
pub struct Operation {
    pub text: &'static str,
    pub field: &'static str,
}

pub const REGISTER: Operation = Operation {
    text: "mutation RegisterHost($input: RegisterHostInput!) { registerHost(input: $input) { host { id } credential } }",
    field: "registerHost",
};

pub const HEARTBEAT: Operation = Operation {
    text: "mutation Heartbeat($input: HeartbeatInput!) { heartbeat(input: $input) { accepted reportAll intervalSeconds \
        host { id status heartbeat } commands { id command argument } } }",
    field: "heartbeat",
};

pub const REPORT_CONTAINER: Operation = Operation {
    text: "mutation ReportContainer($input: ReportContainerInput!) { reportContainer(input: $input) { container { id state } } }",
    field: "reportContainer",
};

pub const REPORT_COMMAND: Operation = Operation {
    text: "mutation ReportCommand($input: ReportCommandInput!) { reportCommand(input: $input) { ok } }",
    field: "reportCommand",
};

pub const REPORT_SERVER_LOG: Operation = Operation {
    text: "mutation ReportServerLog($input: ReportServerLogInput!) { reportServerLog(input: $input) { ok } }",
    field: "reportServerLog",
};

pub const ROTATE: Operation = Operation {
    text: "mutation RotateHostCredential { rotateHostCredential { credential } }",
    field: "rotateHostCredential",
};

pub const COMMANDS: Operation = Operation {
    text: "subscription HostCommands { hostCommands { id command argument } }",
    field: "hostCommands",
};

/// Everything an agent sends, for servers that execute nothing but what they know.
pub const TEXTS: [&str; 7] = [
    REGISTER.text,
    HEARTBEAT.text,
    REPORT_CONTAINER.text,
    REPORT_COMMAND.text,
    REPORT_SERVER_LOG.text,
    ROTATE.text,
    COMMANDS.text,
];

#[derive(Deserialize)]
pub struct Registered {
    pub credential: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    pub accepted: bool,
    pub report_all: bool,
    pub interval_seconds: u64,
    pub host: HostNow,
    pub commands: Vec<Command>,
}

#[derive(Deserialize)]
pub struct HostNow {
    pub id: String,
    pub status: String,
    /// The number of the newest that counted.
    pub heartbeat: i64,
}

#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Command {
    pub id: String,
    #[serde(rename = "command")]
    pub what: String,
    pub argument: Option<String>,
}

#[derive(Deserialize)]
pub struct Reported {
    pub container: ContainerNow,
}

#[derive(Deserialize)]
pub struct ContainerNow {
    pub state: String,
}

/// An answer that says nothing but that it is one.
#[derive(Deserialize)]
pub struct Taken {}

#[derive(Deserialize)]
pub struct Rotated {
    pub credential: String,
}
