//! Every bound, with its unit in the name. What an operator may change has its default here and is
//! checked against these when the configuration is read.

use std::time::Duration;

use super::time::{NS_PER_MS, NS_PER_S, NS_PER_US};

// ---- wire ----

/// The prefix of a frame: a flag and a big-endian length, as in gRPC.
pub const FRAME_PREFIX_SIZE_BYTES: usize = 5;
/// The longest frame we accept: gRPC's usual limit.
pub const FRAME_SIZE_BYTES_MAX: usize = 4 << 20;
/// The longest frame we send.
pub const FRAME_SENT_SIZE_BYTES_MAX: usize = 7 << 19;
/// The longest encoded `Command`.
pub const COMMAND_SIZE_BYTES_MAX: usize = 2 << 20;
/// Room in a command for everything but its value.
pub const COMMAND_OVERHEAD_BYTES_MAX: usize = 64 << 10;
/// The longest name of a map.
pub const MAP_NAME_SIZE_BYTES_MAX: usize = 255;
/// The longest name of a cluster or member.
pub const MEMBER_NAME_SIZE_BYTES_MAX: usize = 128;
/// The longest key.
pub const KEY_SIZE_BYTES_MAX: usize = 4_096;
/// The longest value by default.
pub const VALUE_SIZE_BYTES_DEFAULT: usize = 1 << 20;
/// The longest value that can be configured.
pub const VALUE_SIZE_BYTES_MAX: usize = COMMAND_SIZE_BYTES_MAX - COMMAND_OVERHEAD_BYTES_MAX;
/// Hash slots between keys and partitions, as in Redis Cluster.
pub const KEY_SLOT_COUNT: u32 = 16_384;
/// Entries in the whole answer to `Entries`, if the client doesn't say.
pub const ENTRIES_COUNT_DEFAULT: usize = 1_000;
/// Entries in the whole answer to `Entries` at most.
pub const ENTRIES_COUNT_MAX: usize = 10_000;
/// Keys and values in the whole answer to `Entries`; one entry may exceed it.
pub const ENTRIES_SIZE_BYTES_MAX: usize = 1 << 20;

/// What a message between members should not exceed; one entry, or one chunk, alone may.
pub const PEER_MESSAGE_SIZE_BYTES: usize = 1 << 20;
/// Room in such a message for all but its entries and its chunk: four names and some numbers.
pub const PEER_MESSAGE_OVERHEAD_BYTES_MAX: usize = 1 << 10;
/// Entries in one message between members.
pub const PEER_ENTRY_COUNT_MAX: usize = 4_096;
/// The longest chunk of a checkpoint between members.
pub const PEER_CHUNK_SIZE_BYTES_MAX: usize = 1 << 20;
/// The longest list of no-ops between members. Who has more takes a checkpoint and truncates.
pub const NO_OP_FILTER_SIZE_BYTES_MAX: usize = 1 << 20;
/// No-ops in such a list: however far they lie apart, they fit it.
pub const NO_OP_COUNT_MAX: u64 = NO_OP_FILTER_SIZE_BYTES_MAX as u64 / 10;
/// Positions in logs, terms and request numbers between members are below this: the sum of two of
/// them is a number.
pub const POSITION_END: u64 = 1 << 63;
/// Messages in a minute that are from another member than the connection is to: with more of them
/// it is closed.
pub const BAD_SENDER_COUNT_MAX: u32 = 16;
/// The longest greeting of a member.
pub const HELLO_SIZE_BYTES_MAX: usize = 2 << 20;
/// The challenge in a greeting, and the proof that answers it.
pub const HELLO_PROOF_SIZE_BYTES: usize = 32;
/// The shortest secret with which members prove themselves.
pub const SECRET_SIZE_BYTES_MIN: usize = 16;
/// The longest file with such a secret.
pub const SECRET_SIZE_BYTES_MAX: usize = 4_096;
/// Bytes that wait for another member to read them, on each of its lanes; what is beyond is not
/// said, and said again later.
pub const PEER_QUEUE_SIZE_BYTES_MAX: usize = 8 << 20;
/// How long it may take until a dialled member has answered, and a dialling one has proved itself.
pub const PEER_GREETING_NS_MAX: u64 = 2 * NS_PER_S;
/// How often a member is asked whether it is still there.
pub const PEER_PING_INTERVAL_NS: u64 = 500 * NS_PER_MS;
/// How long it may say nothing before its connection is cut: it is half open, or the member hangs.
pub const PEER_SILENCE_NS_MAX: u64 = 5 * NS_PER_S;
/// How long a member may leave unread all of what was sent to it.
pub const PEER_UNREAD_NS_MAX: u64 = 5 * NS_PER_S;
/// How long a member waits at least before it dials another one again.
pub const PEER_BACKOFF_NS_MIN: u64 = 10 * NS_PER_MS;
/// The same at most.
pub const PEER_BACKOFF_NS_MAX: u64 = NS_PER_S;
/// How long the nodes of a cluster on one machine may take to end before they are killed.
pub const LOCAL_CLUSTER_END_MS_MAX: u64 = 20_000;
/// Partitions of a cluster that is made to fail.
pub const CHAOS_PARTITION_COUNT: u32 = 8;
/// Clients of one.
pub const CHAOS_CLIENT_COUNT_MAX: u32 = 64;
/// The longest run, in seconds: its history is held in memory.
pub const CHAOS_SECONDS_MAX: u64 = 24 * 3_600;
/// Connections of two nodes that a fault-injecting proxy has at the same time.
pub const CHAOS_LINK_CONNECTION_COUNT_MAX: usize = 256;
/// Failures of each kind, or restarts of all nodes, in one drill.
pub const DRILL_COUNT_MAX: u32 = 10_000;
/// What a node may miss in a drill, in MiB.
pub const DRILL_MIB_MAX: u32 = 16 << 10;
/// Partitions of a drill's cluster: each has a thread that writes to it.
pub const DRILL_PARTITION_COUNT_MAX: u32 = 512;
/// Greetings of members that a core may be given by others and has not looked at.
pub const PEER_ARRIVAL_COUNT_MAX: usize = 256;

// A chunk, and an entry with the longest command, fit a frame with all that stands around them.
const _: () = assert!(
    COMMAND_SIZE_BYTES_MAX + 1_024 + PEER_MESSAGE_OVERHEAD_BYTES_MAX < FRAME_SENT_SIZE_BYTES_MAX
);
const _: () =
    assert!(PEER_CHUNK_SIZE_BYTES_MAX + PEER_MESSAGE_SIZE_BYTES < FRAME_SENT_SIZE_BYTES_MAX);
const _: () = assert!(PEER_MESSAGE_OVERHEAD_BYTES_MAX >= 6 * (MEMBER_NAME_SIZE_BYTES_MAX + 32));
// Whatever else waits, there was room for a frame of any length.
const _: () = assert!(FRAME_SENT_SIZE_BYTES_MAX <= PEER_QUEUE_SIZE_BYTES_MAX);
// A member that is there is heard even if some of its answers are late.
const _: () = assert!(4 * PEER_PING_INTERVAL_NS <= PEER_SILENCE_NS_MAX);
const _: () = assert!(NO_OP_COUNT_MAX > UNSYNCED_COUNT_MAX);

// A command with the longest key and value fits its limit; a response with an entry of that size
// fits what we send; what we send we'd accept.
const _: () = assert!(VALUE_SIZE_BYTES_DEFAULT <= VALUE_SIZE_BYTES_MAX);
const _: () = assert!(KEY_SIZE_BYTES_MAX + MAP_NAME_SIZE_BYTES_MAX < COMMAND_OVERHEAD_BYTES_MAX);
const _: () = assert!(COMMAND_SIZE_BYTES_MAX < FRAME_SENT_SIZE_BYTES_MAX);
const _: () = assert!(ENTRIES_SIZE_BYTES_MAX + COMMAND_SIZE_BYTES_MAX < FRAME_SENT_SIZE_BYTES_MAX);
const _: () = assert!(FRAME_SENT_SIZE_BYTES_MAX < FRAME_SIZE_BYTES_MAX);

// ---- partitions ----

/// Partitions of a cluster: every one owns at least one slot.
pub const PARTITION_COUNT_MAX: u32 = KEY_SLOT_COUNT;
/// Partitions at creation at least, whatever the number of cores.
pub const PARTITION_COUNT_DEFAULT_MIN: u32 = 64;
/// Partitions at creation for each core.
pub const PARTITIONS_PER_CORE: u32 = 16;
/// Members of a partition.
pub const MEMBER_COUNT_MAX: usize = 9;
/// Views in a row, left soon after they were adopted, that each make timeouts half as long again:
/// five make them 7.6 times as long, 1.1 s to 1.7 s for a leader's silence.
pub const BRIEF_VIEW_COUNT_MAX: u32 = 5;
/// Nodes of a cluster.
pub const NODE_COUNT_MAX: usize = 64;
/// Named maps with entries in one partition.
pub const NAMED_MAP_COUNT_MAX: usize = 65_536;
/// Records after which a scan for one page of `Entries` stops, found enough or not.
pub const ENTRIES_VISITED_COUNT_MAX: usize = 4_096;
/// Room in a shard's map below which commands are refused: what is stamped and not executed yet
/// must still fit, with the pages that it splits.
pub const MAP_SIZE_BYTES_SPARE: u64 = 1 << 30;
/// What all maps of a node may take, if nobody says: this share, in percent, of the memory that the
/// process may have.
pub const MEMORY_PERCENT_DEFAULT: u8 = 75;
/// What all maps of a node may take at least, for each of its cores.
pub const MEMORY_SIZE_BYTES_MIN: u64 = 16 << 20;
/// What all maps of a node may take at most.
pub const MEMORY_SIZE_BYTES_MAX: u64 = 16 << 40;
/// Of what a shard's maps may take, room that puts leave to removals: what they write is kept until
/// they are stable.
pub const MEMORY_SIZE_BYTES_SPARE: u64 = 2 << 20;
/// How long an entry may live that has a time to live: a hundred years.
pub const ENTRY_TTL_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;
/// Expired entries that one slot removes. Part of the state machine: all members must agree.
pub const EXPIRED_PER_SLOT_COUNT_MAX: usize = 64;
/// How far apart the looks are for partitions in which something has expired and nobody writes.
pub const TICK_INTERVAL_NS: u64 = 10 * NS_PER_MS;
/// Ticks that one such look stamps.
pub const TICKS_PER_TURN_COUNT_MAX: usize = 16;
/// Sessions of a partition, those that have expired and aren't removed yet among them. Part of the
/// state machine, as are the following ones.
pub const SESSION_COUNT_MAX: usize = 4_096;
/// Commands of a session from the first unacknowledged one on: so many results are kept.
pub const SESSION_WINDOW_COUNT: u64 = 32;
/// Results of a session that are longer than a version and its like.
pub const SESSION_RESULTS_SIZE_BYTES_MAX: usize = 64 << 10;
/// The same of all sessions of a partition.
pub const SESSIONS_RESULTS_SIZE_BYTES_MAX: usize = 16 << 20;
/// How long a session outlives its last command, if the client doesn't say.
pub const SESSION_TTL_S_DEFAULT: u32 = 10 * 60;
/// The same at least.
pub const SESSION_TTL_S_MIN: u32 = 1;
/// The same at most.
pub const SESSION_TTL_S_MAX: u32 = 24 * 60 * 60;
/// Expired sessions that one slot removes.
pub const SESSIONS_EXPIRED_PER_SLOT_COUNT_MAX: usize = 8;
/// Records that one turn looks at, to the end of a page, to free what cleared maps have left.
pub const SWEEP_COUNT_MAX: usize = 64;

// ---- protocol ----

/// Stamped but not yet stable slots of a partition.
pub const UNSYNCED_COUNT_MAX: u64 = 65_536;
/// Bytes of stamped but not yet stable slots of a shard, and of what came of them.
pub const UNSYNCED_SIZE_BYTES_MAX: usize = 256 << 20;
/// The same, of one partition.
pub const UNSYNCED_PARTITION_SIZE_BYTES_MAX: usize = 16 << 20;
/// Memory for the commands of unstable slots is allocated in chunks of this size: an allocation
/// serves many commands, and a single slot that stays pins no more than this.
pub const PAYLOAD_CHUNK_SIZE_BYTES: usize = 16 << 10;
/// Full chunks of a shard that are looked through for one whose commands are all stable, to be used
/// again.
pub const PAYLOAD_CHUNK_SPENT_COUNT_MAX: usize = 64;
/// Requests that a shard has passed on to one other node and that aren't answered.
pub const FORWARDED_COUNT_MAX: usize = 16_384;
/// Bytes of their commands and queries.
pub const FORWARDED_SIZE_BYTES_MAX: usize = 32 << 20;
/// How often a node that is going down looks for partitions that it leads still.
pub const HANDOVER_INTERVAL_NS: u64 = 100 * NS_PER_MS;
/// Waiting reads (`min_index`) of a shard.
pub const WAITING_READ_COUNT_MAX: usize = 4_096;
/// Streamed answers of a shard that are under way.
pub const ENTRY_STREAM_COUNT_MAX: usize = 64;
/// How long an operation may take if the client doesn't say.
pub const OPERATION_TIMEOUT_NS_DEFAULT: u64 = NS_PER_S;
/// How long an operation may take at most.
pub const OPERATION_TIMEOUT_NS_MAX: u64 = 60 * NS_PER_S;
/// Slots after which a new sync point is written to the log.
pub const SYNC_BATCH_COUNT: u64 = 256;
/// The same in bytes of their commands.
pub const SYNC_BATCH_SIZE_BYTES: usize = 1 << 20;

// The longest command can be passed on.
const _: () = assert!(COMMAND_SIZE_BYTES_MAX < FORWARDED_SIZE_BYTES_MAX);
const _: () = assert!(MEMORY_SIZE_BYTES_SPARE < MEMORY_SIZE_BYTES_MIN);
// Any time that a log can have and the longest life together are a time that an entry can have.
const _: () = assert!(u64::MAX / NS_PER_MS + ENTRY_TTL_MS_MAX < 1 << 48);
const _: () = assert!(SESSION_RESULTS_SIZE_BYTES_MAX <= SESSIONS_RESULTS_SIZE_BYTES_MAX);
const _: () = assert!(SESSION_TTL_S_MIN > 0 && SESSION_TTL_S_MIN <= SESSION_TTL_S_DEFAULT);
const _: () = assert!(SESSION_TTL_S_DEFAULT <= SESSION_TTL_S_MAX);
const _: () = assert!(UNSYNCED_PARTITION_SIZE_BYTES_MAX <= UNSYNCED_SIZE_BYTES_MAX / 8);
const _: () = assert!(COMMAND_SIZE_BYTES_MAX * 4 <= UNSYNCED_PARTITION_SIZE_BYTES_MAX);

// ---- protocol: members ----

/// Stamped commands of a view that came ahead of the log's end and are kept.
pub const STASH_COUNT_MAX: usize = 4_096;
/// Bytes of them.
pub const STASH_SIZE_BYTES_MAX: usize = 8 << 20;
/// Commands that a member asks for one by one at a time; more are asked for by ranges.
pub const SLOT_LOOKUP_COUNT_MAX: usize = 64;
/// Missing slots above which a member asks for ranges at once.
pub const SLOT_LOOKUP_MISSING_COUNT_MAX: u64 = 1_024;
/// How often a member's question for one command is answered.
pub const SLOT_LOOKUP_ANSWER_INTERVAL_NS: u64 = 5 * NS_PER_MS;
/// Questions whose answers are remembered so that they aren't repeated at once.
pub const SLOT_LOOKUP_ANSWERED_COUNT_MAX: usize = 1_024;
/// How often a member of an older view is told of the present one.
pub const STALE_ANSWER_INTERVAL_NS: u64 = 100 * NS_PER_MS;
/// Stamped commands that one round of retransmission sends to a member.
pub const RETRANSMIT_COUNT_MAX: usize = 64;
/// A member that lags by more is left to synchronisation.
pub const RETRANSMIT_LAG_COUNT_MAX: u64 = 16_384;
/// Entries that one repair request gets, from memory or from the disk; the member asks again for
/// the rest. One entry may exceed it.
pub const REPAIR_SIZE_BYTES_MAX: usize = 4 << 20;
/// What an entry counts for beside its command.
pub const ENTRY_OVERHEAD_SIZE_BYTES: usize = 64;
/// Slots that one repair request asks for.
pub const REPAIR_COUNT_MAX: usize = 16_384;
/// Ranges that one repair request names.
pub const REPAIR_RANGE_COUNT_MAX: usize = 1_024;
/// Bytes of stable slots of a partition that stay in memory for members that lag.
pub const RETAINED_SIZE_BYTES_DEFAULT: usize = 256 << 10;
/// Stable slots of a partition that stay in memory at most.
pub const RETAINED_COUNT_MAX: usize = 4_096;
/// Answers that a leader keeps for a sequencer on another member, should they be lost.
pub const RETAINED_ANSWER_COUNT_MAX: usize = 4_096;
/// Bytes of them.
pub const RETAINED_ANSWER_SIZE_BYTES_MAX: usize = 4 << 20;
/// How often a command whose slot became a no-op is stamped anew.
pub const DROPPED_RETRY_COUNT_MAX: u32 = 3;
/// Queries of a sequencer that are under way.
pub const QUERY_COUNT_MAX: usize = 4_096;
/// Slots that a member takes in above its sync point; beyond it the group is left to go on.
pub const UNSYNCED_FOLLOWER_COUNT_MAX: u64 = 2 * UNSYNCED_COUNT_MAX;
/// How far a sequencer's time may be ahead of the clocks of a majority.
pub const CLOCK_AHEAD_NS_MAX: u64 = 500 * NS_PER_MS;

const _: () = assert!(COMMAND_SIZE_BYTES_MAX + ENTRY_OVERHEAD_SIZE_BYTES < REPAIR_SIZE_BYTES_MAX);
const _: () = assert!(
    PEER_MESSAGE_SIZE_BYTES + COMMAND_SIZE_BYTES_MAX + (64 << 10) < FRAME_SENT_SIZE_BYTES_MAX
);
const _: () = assert!(COMMAND_SIZE_BYTES_MAX * 2 <= STASH_SIZE_BYTES_MAX);

// ---- storage ----

/// The unit of writes to a segment, and of its checksums.
pub const BLOCK_SIZE_BYTES: usize = 4_096;
/// The header of a block.
pub const BLOCK_HEADER_SIZE_BYTES: usize = 32;
/// A segment's size by default.
pub const SEGMENT_SIZE_BYTES_DEFAULT: usize = 64 << 20;
/// A segment's size at least: a few of the largest commands.
pub const SEGMENT_SIZE_BYTES_MIN: usize = 8 << 20;
/// A segment's size at most: a block's number in its segment is a `u16`.
pub const SEGMENT_SIZE_BYTES_MAX: usize = 256 << 20;
/// The longest write to a segment.
pub const WRITE_BATCH_SIZE_BYTES_MAX: usize = 256 << 10;
/// Log writes in flight by default.
pub const WRITES_IN_FLIGHT_DEFAULT: usize = 2;
/// Log writes in flight at most.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;
/// Segments that clients' commands leave free: for the protocol and for making room.
pub const SPARE_SEGMENT_COUNT: u64 = 3;
/// What a shard's log should not exceed, if its state is smaller: at half of it somebody must move.
pub const LOG_TARGET_SIZE_BYTES_MIN: u64 = 1 << 30;
/// A partition with no more bytes than this above its checkpoint is carried over to a new segment
/// when it keeps an old one; another one takes a checkpoint.
pub const CARRY_SIZE_BYTES_MAX: u64 = 256 << 10;
/// How often in a row, a second apart, a segment can't be prepared for another reason than want of
/// space before the node gives up.
pub const PREPARE_FAILURE_COUNT_MAX: u32 = 30;
/// How often all files are read and checked, by default.
pub const SCRUB_INTERVAL_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// The same at least: a scrub takes a tenth of the device.
pub const SCRUB_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The same at most.
pub const SCRUB_INTERVAL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Idle time after which an empty batch proves the last one complete.
pub const PROOF_DELAY_NS: u64 = 5 * NS_PER_MS;
/// In mode `async`, how long a record may wait to be written.
pub const ASYNC_INTERVAL_NS: u64 = 5 * NS_PER_MS;
/// Slots of each partition in the dump of a halted shard.
pub const HALT_SLOT_COUNT_MAX: usize = 32;
/// Bytes of each of their values.
pub const HALT_VALUE_SIZE_BYTES_MAX: usize = 64;
/// Bytes of the reason in it.
pub const HALT_REASON_SIZE_BYTES_MAX: usize = 4_096;
/// The whole dump.
pub const HALT_DUMP_SIZE_BYTES_MAX: usize = 64 << 20;
/// What a partition's log keeps for peers that lag behind, beyond its newest checkpoint.
pub const RETAINED_PARTITION_SIZE_BYTES_MAX: u64 = 32 << 20;
/// The same of all partitions of a shard, in whole segments.
pub const RETAINED_SIZE_BYTES_MAX: u64 = 1 << 30;
/// Slots on disk are found by the run in which they lie: so much of their partition...
pub const OLD_SLOT_RUN_SIZE_BYTES: usize = 64 << 10;
/// ...or so many blocks of their segment, whichever ends first.
pub const OLD_SLOT_RUN_BLOCK_COUNT: usize = 256;
/// Such runs of a shard, of 40 bytes each; beyond it they become longer.
pub const OLD_SLOT_RUN_COUNT_MAX: usize = 131_072;
/// How often they double; beyond it the oldest are forgotten.
pub const OLD_SLOT_COARSE_MAX: u32 = 6;
/// What a shard reads for other members at a time.
pub const PEER_READ_COUNT_MAX: usize = 128;
/// Requests for old slots that wait in a shard.
pub const OLD_SLOT_REQUEST_COUNT_MAX: usize = 64;
/// Slots of an adopted log that are expected to have been carried over.
pub const ADOPTED_HOLE_COUNT_MAX: u64 = 1 << 22;
/// Parts of a checkpoint that are asked for at a time, and held until those before them are there.
pub const CHECKPOINT_PART_WINDOW_COUNT: u64 = 4;
/// How long a checkpoint that a later one replaced is kept while a peer reads it.
pub const CHECKPOINT_TRANSFER_NS_MAX: u64 = 60 * NS_PER_S;
/// Checkpoints of a shard that peers read at a time.
pub const CHECKPOINT_TRANSFER_COUNT_MAX: usize = 64;
/// The longest write to a checkpoint's file.
pub const CHECKPOINT_CHUNK_SIZE_BYTES: usize = 256 << 10;
/// Entries that one turn adds to a checkpoint.
pub const CHECKPOINT_SLICE_COUNT: usize = 256;
/// Bytes that one turn adds to a checkpoint, but for its last entry.
pub const CHECKPOINT_SLICE_SIZE_BYTES: usize = 64 << 10;
/// How far apart such turns are at least.
pub const CHECKPOINT_SLICE_INTERVAL_NS: u64 = 200 * NS_PER_US;
/// Bytes logged in a shard between two checkpoints of all of its partitions, if they are small.
pub const CHECKPOINT_INTERVAL_SIZE_BYTES_DEFAULT: u64 = 64 << 20;
/// The same at least: each checkpoint is a file that is made durable.
pub const CHECKPOINT_INTERVAL_SIZE_BYTES_MIN: u64 = 1 << 20;
/// Files of superseded checkpoints that a shard keeps to write over.
pub const CHECKPOINT_SPARE_COUNT_MAX: usize = 2;
/// What is cut off a file at once that goes away.
pub const FILE_CUT_SIZE_BYTES: usize = 1 << 20;
/// How long a checkpoint rests after its file could not be written.
pub const CHECKPOINT_RETRY_NS: u64 = 10 * NS_PER_S;

const _: () = assert!(CHECKPOINT_CHUNK_SIZE_BYTES.is_multiple_of(BLOCK_SIZE_BYTES));
// A part of a checkpoint on its way to a peer is what a chunk of its file holds.
const _: () = assert!(CHECKPOINT_CHUNK_SIZE_BYTES <= PEER_CHUNK_SIZE_BYTES_MAX);
const _: () = assert!(SEGMENT_SIZE_BYTES_MAX / BLOCK_SIZE_BYTES <= 1 << 16);
const _: () = assert!(SEGMENT_SIZE_BYTES_MIN >= 2 * COMMAND_SIZE_BYTES_MAX);
const _: () = assert!(WRITE_BATCH_SIZE_BYTES_MAX.is_multiple_of(BLOCK_SIZE_BYTES));

// ---- a core's loop ----

/// Requests that one pass of a shard handles together.
pub const PASS_COUNT_MAX: usize = 64;
/// Requests that a turn of a shard takes; the last pass may exceed it. What a partition has to do
/// with a whole map counts as one, and so does every so many bytes of answers.
pub const TURN_REQUEST_COUNT_MAX: usize = 1_024;
/// As how many requests a question about the node's status counts.
pub const STATUS_WEIGHT_COUNT: usize = 64;
/// Connections of a shard.
pub const CONNECTION_COUNT_MAX: usize = 100_000;
/// Open files that are a node's own and never connections: a log that can't open its next segment
/// is a log that can't be written.
pub const DESCRIPTOR_COUNT_RESERVED: usize = 64;
/// The same, for each of its shards.
pub const DESCRIPTOR_COUNT_RESERVED_PER_SHARD: usize = 32;
/// Requests in flight of one connection.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 4_096;
/// Requests in flight of a shard.
pub const REQUESTS_PER_SHARD_MAX: usize = 65_536;
/// Bytes that wait for one client to read them; beyond it we stop reading its requests.
pub const SEND_QUEUE_SIZE_BYTES_MAX: usize = 8 << 20;
/// Bytes received from all clients of a shard and not yet handed over: begun frames, and whole ones
/// of connections that aren't read at the moment.
pub const HELD_SIZE_BYTES_MAX: usize = 256 << 20;
/// Bytes that wait for all clients of a shard to read them; beyond it those that are behind aren't
/// read, however short their own queue is, and the others have one request at a time. Beyond twice
/// as much nobody is served, and those that are behind soon cut.
pub const SEND_QUEUES_SIZE_BYTES_MAX: usize = 256 << 20;
/// How long a client may leave its full queue unread before it is cut.
pub const UNREAD_NS_MAX: u64 = 30 * NS_PER_S;
/// The same while all clients of a shard together leave so much unread that nobody is served.
pub const UNREAD_FULL_NS_MAX: u64 = NS_PER_S;
/// How long a connection may keep silent before it has said which protocol it speaks.
pub const SNIFF_NS_MAX: u64 = 10 * NS_PER_S;
/// How long a connection that we have closed may take to close its side.
pub const LINGER_NS_MAX: u64 = NS_PER_S;
/// Bytes of a message between two cores that lie in its ring; longer ones have a buffer of their
/// own.
pub const RING_INLINE_SIZE_BYTES: usize = 192;
/// Slots of the rings that lead from one shard to all others, requests and replies apart.
pub const RING_SLOTS_PER_SHARD: usize = 8_192;
/// Slots of one ring: requests of one shard that another may have at a time.
pub const RING_SLOT_COUNT_MAX: usize = 4_096;
/// The same at least, however many shards there are.
pub const RING_SLOT_COUNT_MIN: usize = 64;
/// Requests of one connection that other shards may have at a time: so many answers may come for it
/// that nobody has made room for.
pub const FORWARDED_PER_CONNECTION_MAX: usize = 128;
/// The same of a connection whose answers are long, or not known yet.
pub const FORWARDED_PER_CONNECTION_MIN: usize = 8;
/// Operations on whole maps that a shard has under way for clients and for other shards, commands
/// and sizes; streamed answers have their own bound.
pub const GATHER_COUNT_MAX: usize = 1_024;
/// Shares of such operations that a shard has asked another one for and not been given, whether or
/// not anybody still waits for them.
pub const SHARE_COUNT_MAX: usize = GATHER_COUNT_MAX;
/// Accepted connections that wait to be taken in by the core that they were handed to.
pub const ARRIVAL_COUNT_MAX: usize = 1_024;
/// Streams of one gRPC connection.
pub const STREAM_COUNT_MAX: u32 = 256;
/// How long a parking loop spins before it sleeps.
pub const SPIN_NS_DEFAULT: u64 = 50 * NS_PER_US;
/// How often a loop yields to the scheduler while a log write of the process is in flight.
pub const YIELD_INTERVAL_NS: u64 = 20 * NS_PER_US;
/// A turn that takes longer is a stall.
pub const STALL_NS: u64 = NS_PER_MS;
/// Partitions that a turn shows to other threads.
pub const PUBLISHED_PARTITIONS_PER_TURN: usize = 64;
/// A partition's digest is remembered each time so many slots were executed.
pub const DIGEST_INTERVAL_COUNT: u64 = 1_024;
/// How many digests of a partition are remembered.
pub const DIGEST_COUNT_MAX: usize = 8;
/// Partitions in one answer to `Status`.
pub const STATUS_PARTITION_COUNT_MAX: usize = 512;
/// How long a node that is to go down waits until others lead what it has led.
pub const RETIRE_NS_MAX: u64 = 4 * NS_PER_S;
/// How long a shutdown waits for what is in flight.
pub const SHUTDOWN_NS_MAX: u64 = 10 * NS_PER_S;

// A connection with long answers can have as many of the longest ones under way as it may leave
// unread anyway.
const _: () =
    assert!(FORWARDED_PER_CONNECTION_MIN * VALUE_SIZE_BYTES_DEFAULT <= SEND_QUEUE_SIZE_BYTES_MAX);
// Whoever stops all nodes of a machine waits until each has gone down in good order.
const _: () = assert!(RETIRE_NS_MAX + SHUTDOWN_NS_MAX < LOCAL_CLUSTER_END_MS_MAX * NS_PER_MS);
// A pass of one shard's requests fits the ring to any other.
const _: () = assert!(RING_SLOT_COUNT_MIN >= PASS_COUNT_MAX);
const _: () = assert!(RING_SLOT_COUNT_MIN.is_power_of_two());
const _: () = assert!(UNREAD_FULL_NS_MAX < UNREAD_NS_MAX);
const _: () = assert!(RING_SLOT_COUNT_MAX.is_power_of_two());

// A full frame fits the queue of the connection that asked for it.
const _: () = assert!(2 * FRAME_SENT_SIZE_BYTES_MAX <= SEND_QUEUE_SIZE_BYTES_MAX);

// ---- a node's settings ----

/// A configuration file at most.
pub const CONFIG_FILE_SIZE_BYTES_MAX: usize = 1 << 20;
/// Core numbers are below this: the size of the kernel's CPU sets.
pub const CORE_NUMBER_COUNT: u16 = 1_024;
/// How long a parking loop can be told to spin before it sleeps.
pub const SPIN_NS_MAX: u64 = 10 * NS_PER_MS;
/// All segments of a node's log together, by default.
pub const LOG_SIZE_BYTES_DEFAULT: u64 = 64 << 30;
/// All segments of a node's log together at most.
pub const LOG_SIZE_BYTES_MAX: u64 = 16 << 40;
/// Segments that a log has room for at least: the one being written and three prepared ones.
pub const LOG_SEGMENT_COUNT_MIN: u64 = 4;
/// The same of a member: what it adopts must fit beside what it had.
pub const LOG_SEGMENT_COUNT_MIN_REPLICATED: u64 = 16;
/// Connections to the metrics' address at a time; more wait to be accepted.
pub const METRICS_CONNECTION_COUNT_MAX: usize = 8;
/// The longest head of a request for metrics.
pub const METRICS_HEAD_SIZE_BYTES_MAX: usize = 8 << 10;
/// The headers that it may have.
pub const METRICS_HEADER_COUNT_MAX: usize = 64;
/// How long a request for metrics may take to come, and its answer to be read.
pub const METRICS_TIMEOUT_NS: u64 = 5 * NS_PER_S;
/// Lines that one place in the code may log in a second.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 10;
/// Places in the code whose log lines are limited one by one; more of them share one allowance.
pub const LOG_CALL_SITE_COUNT_MAX: usize = 1_024;

const _: () = assert!(LOG_SIZE_BYTES_DEFAULT <= LOG_SIZE_BYTES_MAX);
const _: () = assert!(
    LOG_SEGMENT_COUNT_MIN * (SEGMENT_SIZE_BYTES_MAX as u64) <= LOG_SIZE_BYTES_DEFAULT,
    "a segment size can be raised without raising the log's"
);
const _: () = assert!(SPIN_NS_DEFAULT <= SPIN_NS_MAX);

// ---- the simulator ----

/// A segment's size in simulations: so short that many are filled and used again in a short run.
/// Commands there are short as well.
pub const SEGMENT_SIZE_BYTES_SIMULATED_MIN: usize = 512 << 10;
/// Messages between two simulated members that are kept to be sent once more.
pub const SIMULATED_RESENT_COUNT_MAX: usize = 8;
/// Turns of a simulated shard, one after the other, in which nothing comes and nothing happens and
/// after which it wants another one at once. A real one would take a core for nothing.
pub const IDLE_TURN_COUNT_MAX: u32 = 64;
/// Operations on a key for which any order is searched.
pub const SEARCHED_OPERATION_COUNT_MAX: usize = 128;
/// Steps after which such a search gives up.
pub const SEARCHED_STEP_COUNT_MAX: usize = 20_000;

const _: () = assert!(SEGMENT_SIZE_BYTES_SIMULATED_MIN.is_multiple_of(BLOCK_SIZE_BYTES));
// A write of the log fits, with what else lies in a segment.
const _: () = assert!(SEGMENT_SIZE_BYTES_SIMULATED_MIN >= 2 * WRITE_BATCH_SIZE_BYTES_MAX);

// ---- the host ----

/// What is read of one of the files in which a kernel describes itself; a table of the interrupts
/// of some hundred cores has some MiB.
pub const HOST_FILE_SIZE_BYTES_MAX: usize = 16 << 20;
/// Names that are read of one of its folders.
pub const HOST_FOLDER_ENTRY_COUNT_MAX: usize = 16_384;
/// Disks below one filesystem that are looked at.
pub const HOST_DEVICE_COUNT_MAX: usize = 64;
/// Devices below devices, and buses above them, that are followed.
pub const HOST_DEVICE_DEPTH_MAX: usize = 8;
/// Connections for which a host is to have descriptors.
pub const HOST_CONNECTION_COUNT: u64 = 10_000;
/// Connections that wait to be accepted, as the listener asks for.
pub const LISTEN_BACKLOG_COUNT: u16 = 4_096;
/// Memory that a core locks: the buffers of its executor's three rings, 512 KiB each, and what
/// newer kernels charge for the rings themselves, its own among them (measured: 1.75 MiB don't do).
pub const LOCKED_MEMORY_SIZE_BYTES_PER_CORE: u64 = 2 << 20;
/// Memory lock limit below which an executor refuses to start.
pub const LOCKED_MEMORY_SIZE_BYTES_MIN: u64 = 512 << 10;
/// How long an idle core may take to become busy: about what waking a parked loop costs anyway.
pub const HOST_IDLE_EXIT_US_MAX: u64 = 50;
/// Share of a core's time that the host of a virtual machine may take.
pub const HOST_STEAL_PERCENT_MAX: u64 = 1;
/// Share of a chosen core's time that others may have.
pub const HOST_BUSY_PERCENT_MAX: u64 = 20;
/// Share of a minute in which threads may have waited for a resource.
pub const HOST_PRESSURE_PERCENT_MAX: f64 = 10.0;

// ---- gRPC ----

/// What a client may send on one stream before we have read it.
pub const GRPC_STREAM_WINDOW_SIZE_BYTES: u32 = 128 << 10;
/// What a client may send on one connection before we have read it.
pub const GRPC_CONNECTION_WINDOW_SIZE_BYTES: u32 = STREAM_COUNT_MAX * GRPC_STREAM_WINDOW_SIZE_BYTES;
/// The longest HTTP/2 frame we accept.
pub const GRPC_HTTP2_FRAME_SIZE_BYTES_MAX: u32 = 64 << 10;
/// The longest list of headers we accept, as HTTP/2 counts it.
pub const GRPC_HEADER_LIST_SIZE_BYTES_MAX: u32 = 16 << 10;
/// Streams that a client may have cancelled without our having seen them yet.
pub const GRPC_RESET_COUNT_MAX: usize = 128;
/// Bytes of incomplete messages of one connection; beyond it only its oldest one goes on.
pub const GRPC_PARTIAL_SIZE_BYTES_MAX: usize = 16 << 20;
/// Bytes from the socket that HTTP/2 has not taken; beyond it we stop reading the socket.
pub const GRPC_INPUT_SIZE_BYTES_MAX: usize = 256 << 10;
/// Bytes for the socket at which replies are held back.
pub const GRPC_OUTPUT_SIZE_BYTES: usize = 256 << 10;
/// Bytes for the socket at which HTTP/2 stops: replies and what answers a client's own frames.
pub const GRPC_OUTPUT_SIZE_BYTES_MAX: usize = 2 * GRPC_OUTPUT_SIZE_BYTES;
/// The longest text of a status.
pub const GRPC_STATUS_MESSAGE_SIZE_BYTES_MAX: usize = 1_024;
/// How long a client may be silent before it is asked for a sign of life.
pub const GRPC_KEEPALIVE_IDLE_NS: u64 = 60 * NS_PER_S;
/// How long a client may take to give a sign of life.
pub const GRPC_KEEPALIVE_TIMEOUT_NS: u64 = 20 * NS_PER_S;

// The oldest incomplete message always gets on: whatever the other streams hold back, the
// connection's window has room for its stream.
const _: () = assert!(
    GRPC_CONNECTION_WINDOW_SIZE_BYTES as u64
        >= STREAM_COUNT_MAX as u64 * GRPC_STREAM_WINDOW_SIZE_BYTES as u64
);
// HTTP/2's own bounds.
const _: () = assert!(GRPC_CONNECTION_WINDOW_SIZE_BYTES < 1 << 31);
const _: () = assert!(GRPC_HTTP2_FRAME_SIZE_BYTES_MAX >= 1 << 14);
const _: () = assert!(GRPC_HTTP2_FRAME_SIZE_BYTES_MAX < 1 << 24);
const _: () = assert!(GRPC_PARTIAL_SIZE_BYTES_MAX >= FRAME_SIZE_BYTES_MAX);
const _: () = assert!(GRPC_OUTPUT_SIZE_BYTES_MAX <= SEND_QUEUE_SIZE_BYTES_MAX);

// ---- load generator ----

/// A request that is sent so long after its time though a connection was free was sent late.
pub const LATE_SEND_NS: u64 = NS_PER_MS;
/// How long a load waits for its last answers.
pub const LOAD_DRAIN_NS: u64 = 5 * NS_PER_S;
/// Between two histograms of a load.
pub const LOAD_INTERVAL_NS: u64 = NS_PER_S;
/// A generator that may sleep is awake so long before the next request is due.
pub const LOAD_WAKE_BEFORE_NS: u64 = 100 * NS_PER_US;
