//! TODO-nopaxos
