# Each recipe is plain cargo, to be copied.

# three synthetic hospitals, one federation
demo:
    cargo run --release --bin semisam-sim

# everything that must pass before a commit
check: format lint deny test

format:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --release -- -D warnings

deny:
    cargo deny --offline check bans licenses sources

test:
    cargo test --workspace --release

# the node with CUDA: needs no toolkit to build, a driver and NVRTC to run
cuda:
    cargo build --release -p semisam-node --features cuda
