//! Somebody who sends GraphQL over HTTP.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::{HTTP, PATIENCE, nap, socket::Socket};

/// A person, signed in or not, and the web server they talk to.
#[derive(Clone)]
pub struct Person {
    pub address: SocketAddr,
    pub token: Option<String>,
    pub refresh_token: Option<String>,
    pub email: String,
}

/// An answer.
pub struct Reply(pub Value);

impl Reply {
    /// The data at a JSON pointer; panics with the errors when there are any.
    #[track_caller]
    pub fn ok(&self, pointer: &str) -> Value {
        assert!(
            self.0.get("errors").is_none(),
            "unexpected errors: {}",
            self.0
        );
        self.at(pointer)
    }

    #[track_caller]
    pub fn at(&self, pointer: &str) -> Value {
        self.0["data"]
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in {}", self.0))
            .clone()
    }

    #[track_caller]
    pub fn text(&self, pointer: &str) -> String {
        self.ok(pointer).as_str().unwrap().to_owned()
    }

    /// The code of the first error.
    #[track_caller]
    pub fn code(&self) -> &str {
        self.0["errors"][0]["extensions"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no error code in {}", self.0))
    }

    pub fn field(&self) -> Option<&str> {
        self.0["errors"][0]["extensions"]["field"].as_str()
    }
}

impl Person {
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            token: None,
            refresh_token: None,
            email: String::new(),
        }
    }

    pub fn moved_to(&self, address: SocketAddr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    pub async fn send(&self, query: &str, variables: Value) -> Reply {
        self.try_send(query, variables).await.unwrap()
    }

    /// The answer, or why there was none.
    pub async fn try_send(&self, query: &str, variables: Value) -> reqwest::Result<Reply> {
        let url = format!("http://{}/graphql", self.address);
        let mut request = HTTP
            .post(url)
            .json(&json!({ "query": query, "variables": variables }));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Ok(Reply(request.send().await?.json().await?))
    }

    pub async fn ask(&self, query: &str) -> Reply {
        self.send(query, json!({})).await
    }

    pub async fn sign_up(&self, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let reply = self
            .send(
                "mutation($input: SignUpInput!) { signUp(input: $input) { accessToken refreshToken } }",
                json!({ "input": { "email": email, "name": name, "password": PASSWORD } }),
            )
            .await;
        self.holding(&reply, "/signUp", email)
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Self {
        let reply = self.try_log_in(email, password).await;
        self.holding(&reply, "/logIn", email.to_owned())
    }

    pub async fn try_log_in(&self, email: &str, password: &str) -> Reply {
        self.send(
            "mutation($input: LogInInput!) { logIn(input: $input) { accessToken refreshToken session { id } } }",
            json!({ "input": { "email": email, "password": password } }),
        )
        .await
    }

    pub async fn refresh(&self, token: &str) -> Reply {
        self.send(
            "mutation($input: RefreshSessionInput!) { refreshSession(input: $input) { accessToken refreshToken session { id } } }",
            json!({ "input": { "refreshToken": token } }),
        )
        .await
    }

    fn holding(&self, reply: &Reply, pointer: &str, email: String) -> Self {
        let token = Some(reply.text(&format!("{pointer}/accessToken")));
        let refresh_token = Some(reply.text(&format!("{pointer}/refreshToken")));
        Self {
            address: self.address,
            token,
            refresh_token,
            email,
        }
    }

    pub async fn create(&self, app: &str) -> Created {
        let reply = self
            .send(
                "mutation($input: CreateContainerInput!) { createContainer(input: $input) { secretKey container { id state } task { id state } } }",
                json!({ "input": { "app": app, "region": "us-east-1" } }),
            )
            .await;
        Created {
            container: reply.text("/createContainer/container/id"),
            task: reply.text("/createContainer/task/id"),
            secret_key: reply.text("/createContainer/secretKey"),
        }
    }

    pub async fn delete(&self, container: &str) -> Reply {
        self.send(
            "mutation($input: DeleteContainerInput!) { deleteContainer(input: $input) { container { state } task { id kind } } }",
            json!({ "input": { "id": container } }),
        )
        .await
    }

    pub async fn demo(&self, steps: u32, step_millis: u32) -> String {
        let reply = self
            .send(
                "mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id } } }",
                json!({ "input": { "steps": steps, "stepMillis": step_millis } }),
            )
            .await;
        reply.text("/startDemoTask/task/id")
    }

    pub async fn cancel(&self, task: &str) -> Reply {
        self.send(
            "mutation($input: CancelTaskInput!) { cancelTask(input: $input) { task { state cancelRequestedAt } } }",
            json!({ "input": { "id": task } }),
        )
        .await
    }

    /// What can be seen of a task.
    pub async fn task(&self, id: &str) -> Value {
        const TASK: &str = "query($id: ID!) { task(id: $id) { id kind state version progress progressMessage attempt failures \
            result error { code message } logs { level message attempt } } }";
        self.send(TASK, json!({ "id": id })).await.ok("/task")
    }

    /// What can be seen of a container.
    pub async fn container(&self, id: &str) -> Value {
        const CONTAINER: &str = "query($id: ID!) { container(id: $id) { id state version provider ip dpi \
            ports { inside published } failure { code reason } app { slug } region { name } } }";
        self.send(CONTAINER, json!({ "id": id }))
            .await
            .ok("/container")
    }

    /// The task once it is in `state`.
    pub async fn task_in(&self, id: &str, state: &str) -> Value {
        in_state(state, async || self.task(id).await).await
    }

    /// The container once it is in `state`.
    pub async fn container_in(&self, id: &str, state: &str) -> Value {
        in_state(state, async || self.container(id).await).await
    }

    /// A WebSocket with this person's token.
    pub async fn socket(&self) -> Socket {
        Socket::open(self.address, self.token.as_deref()).await
    }
}

pub struct Created {
    pub container: String,
    pub task: String,
    pub secret_key: String,
}

pub const PASSWORD: &str = "correct horse battery";

/// Reads until the state is right; shows what was read last when it never is.
pub async fn in_state(state: &str, read: impl AsyncFn() -> Value) -> Value {
    in_state_within(PATIENCE, state, read).await
}

pub async fn in_state_within(limit: Duration, state: &str, read: impl AsyncFn() -> Value) -> Value {
    let newest = std::sync::Mutex::new(Value::Null);
    let look = async {
        loop {
            let found = read().await;
            if found["state"] == state {
                return found;
            }
            *newest.lock().unwrap() = found;
            nap(20).await;
        }
    };
    let in_time = tokio::time::timeout(limit, look).await;
    in_time.unwrap_or_else(|_| panic!("not {state} in time: {:#}", newest.lock().unwrap()))
}
