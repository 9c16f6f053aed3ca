//! PostgreSQL as others set it up: several meshes, settings of roles, poolers, copied directories.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn opened(location: &Location, domain: &str, replica: &str) -> Result<Store, StoreError> {
    Store::open_as(location.clone(), &domain.parse().unwrap(), replica)
}

#[tokio::test]
async fn two_meshes_in_two_schemas_neither_wait_for_nor_wake_each_other() {
    let url = server::url().await;
    server::run(&url, "CREATE SCHEMA one; CREATE SCHEMA two").await;
    let stores = ["one", "two"].map(|schema| {
        let location = server::located(&format!("{url}&options=-c%20search_path%3D{schema}"));
        opened(&location, &format!("{schema}.local"), "replica").unwrap()
    });
    for store in &stores {
        replicas::eventually("each has a leader of its own", async || store.leads()).await;
    }
    let [one, two] = &stores;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held = one.write(move |_| {
        let _ = wait.recv();
        Ok(())
    });
    let meanwhile = async {
        two.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
        drop(go);
    };
    let (held, ()) = tokio::join!(held, meanwhile);
    held.unwrap();
    assert_eq!(one.committed().borrow().revision, 0, "what the other mesh commits is no news");
    assert_eq!(two.policies().await.unwrap().len(), 1);
}

#[tokio::test]
async fn schema_that_appears_later_does_not_take_the_place_of_the_mesh() {
    let url = server::url().await;
    let store = opened(&server::located(&url), "mesh.local", "replica").unwrap();
    store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    // The first of a search_path is the user's own, if there is one.
    server::run(&url, "CREATE SCHEMA signet").await;
    server::cut_all(&server::located(&url)).await;
    assert_eq!(store.policies().await.unwrap().len(), 1);
}

#[tokio::test]
async fn copied_data_directory_does_not_make_two_of_one_replica() {
    let location = server::database().await;
    let first = opened(&location, "mesh.local", "replica").unwrap();
    let second = opened(&location, "mesh.local", "replica").unwrap_err().to_string();
    assert!(second.contains("another signet-control runs as the replica replica"), "{second}");
    drop(first);
    opened(&location, "mesh.local", "replica").unwrap();
}

#[tokio::test]
async fn restore_and_migrate_take_the_time_they_need() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let long = "SELECT CAST(pg_sleep(7) AS text)";
    let short = fixture.store.write(move |change| change.sql.row(long, &[]).map(drop)).await;
    assert!(short.is_err(), "who changes something holds up everybody else");
    let Fixture { location, store, .. } = fixture;
    drop(store);
    let taken = aside(|| {
        let opened = Opened::open(&location, EMBEDDED)?;
        schema::transaction(&*opened.writer, |sql| sql.row(long, &[]))
    });
    assert!(taken.unwrap().is_some());
}

#[tokio::test]
async fn pooler_is_refused_with_its_name() {
    let url = server::url().await;
    let (database, directory) = url.split_once("?host=").unwrap();
    let between = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(between.path().join(".s.PGSQL.5432")).unwrap();
    let server = format!("{directory}/.s.PGSQL.5432");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let server = UnixStream::connect(&server).unwrap();
            std::thread::spawn(move || pool(client.unwrap(), server));
        }
    });
    let location = server::located(&format!("{database}?host={}", between.path().display()));
    let refused = opened(&location, "mesh.local", "replica").unwrap_err().to_string();
    assert!(refused.contains("pooler"), "{refused}");
}

/// Passes everything on, but for the settings in the first message, as pgbouncer does when told to ignore them.
fn pool(mut client: UnixStream, mut server: UnixStream) {
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let mut first = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut first).unwrap();
    let parts: Vec<&[u8]> = first[4..].split(|byte| *byte == 0).collect();
    let mut kept = first[..4].to_vec();
    for pair in parts.chunks(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options") {
        kept.extend(pair.iter().flat_map(|part| part.iter().chain(&[0])));
    }
    kept.push(0);
    let length = u32::try_from(kept.len() + 4).unwrap();
    server.write_all(&[length.to_be_bytes().as_slice(), &kept].concat()).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut server, &mut client);
}
