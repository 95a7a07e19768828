//! The generated types of `proto/`. Their documentation is the comments of the `.proto` files.
//! And [`reader`], with which hot messages are read without making those types.

pub mod reader;

/// The package `atomix`, as the service's own document gives it.
pub mod atomix {
    /// The package `atomix.map`: the service's 28 messages.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod map {
        include!(concat!(env!("OUT_DIR"), "/atomix.map.rs"));
    }

    /// The package `atomix.primitive`.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod primitive {
        include!(concat!(env!("OUT_DIR"), "/atomix.primitive.rs"));
    }
}

/// The package `p2pmap`: the map's own messages.
pub mod p2pmap {
    /// Version 1 of the map's own messages.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/p2pmap.v1.rs"));
    }
}

/// The package `grpc.health.v1`: gRPC's standard health service.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
