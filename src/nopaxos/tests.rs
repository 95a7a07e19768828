mod cluster;
mod disk;
mod host;
mod model;
mod observer;
mod scenarios;
mod stored;
mod swarm;
