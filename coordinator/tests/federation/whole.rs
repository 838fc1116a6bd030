//! A federation from the first round to the last, with everything that a normal month has: an upload that breaks off, a
//! server that restarts in the middle, an operator who looks.

use std::io::Cursor;

use semisam_shared::{
    fold::{self, Folded},
    ids::{Digest, RoundNumber},
    message::{Request, Response, Task},
    plan::SignedPlan,
    release_space::Projection,
    transport::Connection,
    weights::Weights,
};

use crate::rig::*;

/// Sends only the first chunk, and hangs up.
async fn break_off(consortium: &Consortium, connection: Connection, node: &Node, round: u32) {
    let update = node.update(round);
    let (mut exchange, announced) = Node::announce(&connection, node.receipt(round, &update)).await;
    assert_eq!(announced, Ok(0));
    // A total of one chunk: the coordinator waits for the rest, which never comes.
    exchange.send_chunks(Cursor::new(&update), 0, 1 << 20).await.expect("sent");
    let arrived =
        || spooled(consortium).iter().any(|part| std::fs::metadata(part).is_ok_and(|file| file.len() == 1 << 20));
    while !arrived() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    connection.close();
}

/// The offset from which the coordinator wants the rest.
async fn resumes_at(connection: &Connection, node: &Node, round: u32) -> u64 {
    let (exchange, announced) = Node::announce(connection, node.receipt(round, &node.update(round))).await;
    drop(exchange);
    announced.expect("it wants the rest")
}

/// What every party can compute from the plan and the updates.
fn expected(consortium: &Consortium, nodes: &[Node], rounds: u32) -> Vec<u8> {
    let signed = std::fs::read(consortium.folder().plan()).expect("read");
    let signed: SignedPlan = serde_json::from_slice(&signed).expect("a plan");
    let initial = std::fs::read(consortium.path("initial.safetensors")).expect("read");
    let model = Weights::from_safetensors(&initial).expect("a model");
    let projection = Projection::new(&signed.plan.privacy.release, &model, None).expect("fits");
    let mut state = Folded { model, momentum: fold::no_momentum(COORDINATES).expect("fits") };
    for round in 1..=rounds {
        let mut sum = vec![0; COORDINATES];
        for node in nodes {
            fold::add_update(&mut sum, &node.update(round)).expect("length");
        }
        state = fold::fold(&signed.plan, RoundNumber(round), &state, &projection, &sum, nodes.len()).expect("folded");
    }
    state.model.to_safetensors().expect("written")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_survives_what_a_month_brings() {
    let consortium = Consortium::new(2, 3, 3600);
    let nodes = ["north", "south", "west"].map(|name| consortium.enrol(name));
    let running = consortium.serve(false);
    let address = running.address;
    let mut connections = Vec::new();
    for node in &nodes {
        connections.push(node.connect(address).await);
    }
    let (round, model) = nodes[0].train(&connections[0]).await;
    let bytes = nodes[0].fetch(&connections[0], model, 0).await;
    assert_eq!((round, Digest::of(&bytes)), (1, model));
    assert_eq!(nodes[1].fetch(&connections[1], model, 1_500_000).await, &bytes[1_500_000..], "a download resumes");

    break_off(&consortium, connections.remove(0), &nodes[0], 1).await;
    connections.insert(0, nodes[0].connect(address).await);
    assert_eq!(resumes_at(&connections[0], &nodes[0], 1).await, 1 << 20, "an upload resumes");
    for (node, connection) in nodes.iter().zip(&connections) {
        assert!(matches!(node.submit(connection, 1).await, Sent::Accepted(receipt) if receipt.site == node.site));
    }
    let (round, model) = nodes[1].train(&connections[1]).await;
    assert_eq!(round, 2);
    let (code, status) = consortium.command(&["status"]);
    assert_eq!((code, status["state"].as_str(), status["round"].as_u64()), (0, Some("open"), Some(2)));
    assert_eq!(status["model"].as_str(), Some(model.to_string().as_str()));

    // One update is in, one is half in, and the server goes down.
    let receipt = nodes[0].submit(&connections[0], 2).await;
    break_off(&consortium, connections.remove(1), &nodes[1], 2).await;
    running.stop().await;
    assert!(!consortium.folder().address().exists());
    let running = consortium.serve_at(address, true);
    let mut connections = Vec::new();
    for node in &nodes {
        connections.push(node.connect(address).await);
    }
    assert_eq!(nodes[0].submit(&connections[0], 2).await, receipt, "the same receipt for the same bytes");
    assert_eq!(resumes_at(&connections[1], &nodes[1], 2).await, 1 << 20);
    for number in [1, 2] {
        nodes[number].submit(&connections[number], 2).await;
    }
    let last = finish(&nodes, &connections).await;
    running.ended().await;

    let out = consortium.path("exported.safetensors");
    let (code, exported) = consortium.command(&["export", "--out", &out]);
    assert_eq!((code, exported["round"].as_u64()), (0, Some(2)));
    let exported = std::fs::read(out).expect("read");
    assert_eq!(Digest::of(&exported), last);
    assert!(exported == expected(&consortium, &nodes, 2), "anybody gets the same model from the same updates");
    look(&consortium, last);
}

/// Every site hears that all is done, and fetches the last model.
async fn finish(nodes: &[Node], connections: &[Connection]) -> Digest {
    let mut last = None;
    for (node, connection) in nodes.iter().zip(connections) {
        let model = loop {
            match ask(connection, &Request::Task).await {
                Response::Task(Task::Done { model, rounds: 2 }) => break model,
                Response::Task(Task::Wait { .. }) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(Digest::of(&node.fetch(connection, model, 0).await), model);
        assert_eq!(*last.get_or_insert(model), model);
    }
    last.expect("there are sites")
}

/// What an operator sees afterwards.
fn look(consortium: &Consortium, last: Digest) {
    let (_, status) = consortium.command(&["status"]);
    assert_eq!(status["state"].as_str(), Some("finished"));
    let sites = status["sites"].as_array().expect("sites");
    assert!(sites.len() == 3 && sites.iter().all(|site| site["contributed"] == 2 && site["presence"] == "active"));
    let (_, list) = consortium.command(&["model", "list"]);
    let models = list["models"].as_array().expect("models");
    assert_eq!(models.len(), 3);
    assert_eq!(models[2]["model"].as_str(), Some(last.to_string().as_str()));
    assert_eq!(models[2]["contributors"].as_array().map(Vec::len), Some(3));
    let (code, plan) = consortium.command(&["plan"]);
    assert_eq!((code, plan["digest"].as_str()), (0, status["plan"].as_str()));
    assert!(plan["epsilon"]["add_remove"].is_string() && plan["epsilon"]["replace_one"].is_string(), "{plan}");
    assert!(spooled(consortium).is_empty());
    assert_eq!(consortium.command(&["export", "--out", &consortium.path("x"), "--round", "9"]).0, 1);
    assert_eq!(consortium.command(&["init", "--plan", "x", "--model", "y"]).0, 2, "a folder is never overwritten");
    assert_eq!(consortium.command(&["serve", "--nonsense"]).0, 64);
}
