//! Black-box tests of the built programs, run as their users run them: real files, real QUIC on port 0, real signals.
