mod cluster;
mod disk;
mod host;
mod observer;
mod scenarios;
mod swarm;
