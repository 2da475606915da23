//! A real S3 server that checks signatures, and one that is away, ill or slow.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use super::said;
use crate::{
    backup::{beside, compare, fail, forget, ground, own, rows, succeed},
    harness::{Ground, nap, required, servers::free_port, until},
};

/// The server's own Python, which has a client.
const CLIENT: &str = "import boto3, json, sys\n\
    e, k, s = sys.argv[1:4]\n\
    def client(what, **more): return boto3.client(what, endpoint_url=e, region_name='us-east-1', **more)\n\
    def signed(what): return client(what, aws_access_key_id=k, aws_secret_access_key=s)\n";

/// A server with a bucket; it is killed when the test ends.
pub struct S3 {
    endpoint: String,
    key: String,
    secret: String,
    _child: Child,
}

impl S3 {
    pub async fn start() -> Self {
        let port = free_port();
        let child = Command::new(format!("{}/moto_server", required("TEST_MOTO")))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            // The bucket, the user, the key and what it may: after that every request has to be signed.
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "4")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut s3 = Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            key: "none".to_owned(),
            secret: "none".to_owned(),
            _child: child,
        };
        until("the server listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        let made = s3.run(
            "i = signed('iam'); signed('s3').create_bucket(Bucket='backups'); i.create_user(UserName='u')\n\
             a = i.create_access_key(UserName='u')['AccessKey']\n\
             p = {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Action': 's3:*', 'Resource': '*'}]}\n\
             i.put_user_policy(UserName='u', PolicyName='p', PolicyDocument=json.dumps(p))\n\
             print(json.dumps([a['AccessKeyId'], a['SecretAccessKey']]))",
        );
        let made = made.await;
        made[0].as_str().unwrap().clone_into(&mut s3.key);
        made[1].as_str().unwrap().clone_into(&mut s3.secret);
        s3
    }

    async fn run(&self, script: &str) -> Value {
        let output = Command::new(format!("{}/python", required("TEST_MOTO")))
            .args(["-c", &format!("{CLIENT}{script}")])
            .args([&self.endpoint, &self.key, &self.secret])
            .output()
            .await
            .unwrap();
        serde_json::from_slice(&said(output)).unwrap()
    }

    /// Names of what is in the bucket.
    pub async fn objects(&self) -> Vec<String> {
        let script = "print(json.dumps([o['Key'] for o in signed('s3').list_objects_v2(Bucket='backups').get('Contents', [])]))";
        serde_json::from_value(self.run(script).await).unwrap()
    }

    /// How many uploads have begun and not ended.
    pub async fn unfinished(&self) -> usize {
        let script = "print(json.dumps(len(signed('s3').list_multipart_uploads(Bucket='backups').get('Uploads', []))))";
        serde_json::from_value(self.run(script).await).unwrap()
    }

    /// A ground whose backups go there.
    pub async fn ground(&self) -> Ground {
        self.by(&self.endpoint).await
    }

    async fn by(&self, endpoint: &str) -> Ground {
        ground()
            .await
            .with("BACKUP_URL", "s3://backups/main/nightly")
            .with("BACKUP_S3_ENDPOINT", endpoint)
            .with("BACKUP_S3_KEY_ID", &self.key)
            .with("BACKUP_S3_SECRET", &self.secret)
    }
}

#[tokio::test]
async fn a_backup_goes_there_and_comes_back_by_signed_requests() {
    let s3 = S3::start().await;
    let ground = s3.ground().await.with("BACKUP_KEY", crate::backup::KEY);
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["user", "create", "somebody@example.com"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let objects = s3.objects().await;
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert!(
        objects.iter().all(|name| name.starts_with("main/nightly/")),
        "{objects:?}"
    );
    let target = beside(&ground, "again");
    succeed(&ground, &["restore", "latest", "--into", &target]).await;
    compare(&rows(&own(&ground)).await, &rows(&target).await);

    let ground = ground.with("BACKUP_S3_SECRET", "another-secret-that-is-not-the-one");
    let refused = fail(&ground, &["backup", "list"]).await;
    assert!(
        refused.contains("the store of backups: listing:"),
        "{refused}"
    );
    assert!(!refused.contains("another-secret"), "{refused}");
    forget(&target).await;
    ground.clear().await;
}

#[tokio::test]
async fn more_than_one_part_comes_back_whole() {
    let s3 = S3::start().await;
    let ground = s3.ground().await;
    succeed(&ground, &["migrate", "up"]).await;
    crate::backup::outside::figures::fill(&own(&ground), 5_000).await;
    succeed(&ground, &["backup", "now"]).await;
    assert_eq!(s3.unfinished().await, 0);
    let shown = succeed(&ground, &["backup", "list"]).await;
    // 8 MiB are a part.
    let mebibytes: f64 = shown
        .split("  ")
        .nth(3)
        .unwrap()
        .trim_end_matches(" MiB")
        .parse()
        .unwrap();
    assert!(mebibytes > 8.5, "{shown}");
    ground.clear().await;
}

/// Passes connections on to `to`, the first `ill` of them answered with 500, each after `wait` milliseconds.
async fn between(to: &str, ill: i64, wait: u64) -> (String, Arc<AtomicI64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let to = to.trim_start_matches("http://").to_owned();
    let left = Arc::new(AtomicI64::new(ill));
    let counted = Arc::clone(&left);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (to, left) = (to.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                nap(wait).await;
                if left.fetch_sub(1, Ordering::SeqCst) > 0 {
                    let mut request = vec![0; 64 * 1024];
                    let _ = client.read(&mut request).await;
                    let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = client.write_all(answer.as_bytes()).await;
                    return;
                }
                let mut server = TcpStream::connect(&to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (here, counted)
}

#[tokio::test]
async fn an_s3_that_is_ill_for_a_moment_or_slow_is_waited_for() {
    let s3 = S3::start().await;
    for (ill, wait) in [(3, 0), (0, 1500)] {
        let (endpoint, left) = between(&s3.endpoint, ill, wait).await;
        let ground = s3.by(&endpoint).await;
        succeed(&ground, &["migrate", "up"]).await;
        succeed(&ground, &["backup", "now"]).await;
        assert!(left.load(Ordering::SeqCst) < 0, "the fault was met");
        ground.clear().await;
    }
}

#[tokio::test]
async fn an_s3_that_stays_ill_or_is_away_is_told_of_and_nothing_is_taken_for_a_backup() {
    let s3 = S3::start().await;
    let (ill, _) = between(&s3.endpoint, i64::MAX, 0).await;
    let away = format!("http://127.0.0.1:{}", free_port());
    for endpoint in [ill, away] {
        let ground = s3.by(&endpoint).await;
        succeed(&ground, &["migrate", "up"]).await;
        let told = fail(&ground, &["backup", "now"]).await;
        assert!(told.starts_with("error: the store of backups: "), "{told}");
        assert!(!told.contains(&s3.secret), "{told}");
        ground.clear().await;
    }
    assert!(s3.objects().await.is_empty());
    assert_eq!(s3.unfinished().await, 0);
}
