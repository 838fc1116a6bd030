//! Black-box tests of the built programs, run as their users run them: real files, real QUIC on port 0, real signals.

#[path = "programs/canaries.rs"]
mod canaries; // an attacker finds no more in what this very program releases than its ledger says
#[path = "programs/crashes.rs"]
mod crashes; // kill -9 at the worst moments, restored backups
#[path = "programs/data_commands.rs"]
mod data_commands; // what `node data` and `node metrics` print about good and bad scans
#[path = "programs/federation.rs"]
mod federation; // a real federation on disk, made with the commands of the guide
#[path = "programs/guided_federation.rs"]
mod guided_federation; // a plan that asks a generalist: its very file, and labels that nobody opens
#[path = "programs/guided_training.rs"]
mod guided_training; // training with a generalist: labels that nobody opens, embeddings that are kept
#[path = "programs/mistakes.rs"]
mod mistakes; // what people do wrong: each names the thing and the remedy, and loses nothing
#[path = "programs/multi_class.rs"]
mod multi_class; // several classes, of label files that number them as they like
#[path = "programs/prepared_scans.rs"]
mod prepared_scans; // the cache of prepared scans: shared, damaged, too small, and trainings that are stopped
#[path = "programs/private_learning.rs"]
mod private_learning; // the basis of a plan, and what its noise leaves
#[path = "programs/running.rs"]
mod running; // programs as processes: arguments, exit codes, output, signals
#[path = "programs/sam_commands.rs"]
mod sam_commands; // a generalist by command: parity, refusals, masks where the points are
#[path = "programs/samples.rs"]
mod samples; // the files of deploy/ are read by the programs that they are for
#[path = "programs/strangers.rs"]
mod strangers; // nodes that must not be let in, while the others go on
#[path = "programs/student_commands.rs"]
mod student_commands; // local work with a student: verify, train, evaluate, predict
#[path = "programs/tampering.rs"]
mod tampering; // one changed byte anywhere, and the auditor says so
