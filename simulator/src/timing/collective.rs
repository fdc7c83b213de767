//! Closed forms of collectives on lines, for level L0: see [`super::closed`].
//!
//! A run is a stretch of a line that a phase's colors connect; its root is told from what the tiles
//! send and receive, and every position pays its share of distance and depth.

use plan::{CommShape, Target};

use super::domain::{Domain, NONE};
use super::lines::{Way, lines};

/// What one program does in one phase.
#[derive(Clone, Copy, Default)]
pub(super) struct Work {
    /// Local cycles before the first message.
    pub(super) before: u64,
    /// Local cycles after it.
    pub(super) after: u64,
    /// Receives or relays.
    pub(super) receives: bool,
    /// Sends or relays.
    pub(super) sends: bool,
    /// Its last message is one it sends.
    pub(super) sends_last: bool,
    /// Wavelets of its last message.
    pub(super) last_wavelets: u64,
    /// Color of the last message it sends.
    pub(super) last_sent: u8,
}

impl Work {
    pub(super) fn communicates(&self) -> bool {
        self.receives || self.sends
    }
}

/// Cycles of a collective.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    /// Software before a message.
    message: u64,
    /// C w.
    consume: u64,
    /// h L.
    distance: u64,
    /// (2 T_R + w) D.
    depth: u64,
    hop: u64,
    /// 2 T_R + w.
    relay: u64,
    wavelet: u64,
}

impl Cost {
    pub(super) fn new(target: &Target, comm: &CommShape, tokens: u32) -> Self {
        let w = u64::from(target.core.wavelet_cycles);
        let hop = u64::from(target.fabric.hop_cycles);
        let relay = 2 * u64::from(target.fabric.ramp_cycles) + w;
        Cost {
            message: u64::from(target.core.message_cycles),
            consume: comm.serial.elements(tokens) * w,
            distance: hop * u64::from(comm.hops),
            depth: relay * u64::from(comm.depth),
            hop,
            relay,
            wavelet: w,
        }
    }

    /// With the software of every message that comes after another one: C counts them.
    pub(super) fn of_messages(self, wavelets: u64) -> Self {
        let messages = self.consume / (wavelets * self.wavelet).max(1);
        Cost { message: self.message * messages.max(1), ..self }
    }

    pub(super) fn whole(&self) -> u64 {
        self.message + self.consume + self.distance + self.depth
    }
}

/// Tiles whose core receives what enters the region on one of the colors, with the hops from its edge.
pub(super) fn entries(domain: &Domain, colors: &[u8]) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    let route = |t: u32, c: u8| domain.routes[t as usize * domain.colors + c as usize];
    for tile in 0..domain.len() as u32 {
        let edges = domain.neighbors[tile as usize];
        for (port, &color) in (0..4).flat_map(|p| colors.iter().map(move |c| (p, c))) {
            if edges[port] != NONE || route(tile, color).0 != 1 << port {
                continue;
            }
            let mut open = vec![(tile, port, 0u64)];
            while let Some((at, from, hops)) = open.pop() {
                let (input, outputs) = route(at, color);
                if input != 1 << from {
                    continue;
                }
                if outputs & (1 << 4) != 0 {
                    found.push((at, hops));
                }
                let next = (0..4).filter(|p| outputs & (1 << p) != 0);
                let next = next.map(|p| (domain.neighbors[at as usize][p], (p + 2) % 4, hops + 1));
                open.extend(next.filter(|n| n.0 != NONE));
            }
        }
    }
    found
}

/// A stream into the region: the farthest receiver pays all of it, nearer ones fewer hops. What is
/// done before it arrives is done while waiting.
pub(super) fn stream_in(
    entries: &[(u32, u64)],
    at: &dyn Fn(u32) -> Work,
    cost: Cost,
    ready: &mut [u64],
) {
    let farthest = entries.iter().map(|e| e.1).max().unwrap_or(0);
    for (tile, r) in ready.iter_mut().enumerate() {
        let w = at(tile as u32);
        if !w.communicates() {
            *r += w.before + w.after;
        }
    }
    for &(tile, hops) in entries {
        let w = at(tile);
        let nearer = cost.hop * (farthest - hops);
        let arrival = cost.whole() - cost.message;
        ready[tile as usize] = arrival.saturating_sub(nearer) + w.after;
    }
}

/// One communicating phase: moves `ready` on, and returns a later end outside of the region if any.
pub(super) fn communicate(
    domain: &Domain,
    width: u32,
    (way, colors): (Way, &[u8]),
    at: &dyn Fn(u32) -> Work,
    cost: Cost,
    ready: &mut [u64],
) -> u64 {
    let mut latest = 0;
    let leaving = leaving(domain, colors);
    for line in lines(domain.len() as u32, width, way) {
        for run in runs(domain, &line, way, colors) {
            let works: Vec<Work> = run.iter().map(|&t| at(t)).collect();
            if !works.iter().any(Work::communicates) {
                run.iter().zip(&works).for_each(|(&t, w)| ready[t as usize] += w.before + w.after);
                continue;
            }
            let mut times: Vec<u64> = run.iter().map(|&t| ready[t as usize]).collect();
            let out = works.iter().zip(&run).enumerate().find_map(|(i, (w, &tile))| {
                let may = w.receives && w.sends_last && leaving.contains(&w.last_sent);
                Some((i, may.then(|| exit_hops(domain, tile, w.last_sent))??))
            });
            latest = latest.max(match out {
                Some((root, hops)) => reduce_and_leave(&works, root, hops, cost, &mut times),
                None => run_collective(&works, cost, &mut times),
            });
            run.iter().zip(times).for_each(|(&t, time)| ready[t as usize] = time);
        }
    }
    latest
}

/// Colors that leave the region somewhere.
fn leaving(domain: &Domain, colors: &[u8]) -> Vec<u8> {
    let leaves = |&c: &u8| {
        domain.neighbors.iter().enumerate().any(|(tile, near)| {
            let outputs = domain.routes[tile * domain.colors + c as usize].1;
            (0..4).any(|p| outputs & (1 << p) != 0 && near[p] == NONE)
        })
    };
    colors.iter().copied().filter(leaves).collect()
}

/// Hops from a tile to the farthest edge where its flow of a color leaves; `None` when it does not.
fn exit_hops(domain: &Domain, tile: u32, color: u8) -> Option<u64> {
    let mut farthest = None;
    let mut open = vec![(tile, 4usize, 0u64)];
    while let Some((at, from, hops)) = open.pop() {
        let (input, outputs) = domain.routes[at as usize * domain.colors + color as usize];
        for port in (0..4usize).filter(|p| input == 1 << from && outputs & (1 << p) != 0) {
            match domain.neighbors[at as usize][port] {
                NONE => farthest = farthest.max(Some(hops)),
                next => open.push((next, (port + 2) % 4, hops + 1)),
            }
        }
    }
    farthest
}

/// A reduction whose root sends the result out of the region; its wavelets count where they arrive.
fn reduce_and_leave(
    works: &[Work],
    root: usize,
    exit_hops: u64,
    cost: Cost,
    ready: &mut [u64],
) -> u64 {
    let members: Vec<usize> = (0..works.len()).filter(|&i| works[i].communicates()).collect();
    let out = cost.hop * exit_hops;
    let up = Cost { distance: cost.distance.saturating_sub(out), ..cost };
    reduce(works, &members, root, up, ready);
    ready[root] + out
}

/// Cuts a line where no color of the phase passes from one tile to the next.
fn runs(domain: &Domain, line: &[u32], way: Way, colors: &[u8]) -> Vec<Vec<u32>> {
    // Ports towards the next tile of the line and back, by bit.
    let (ahead, back) = match way {
        Way::Columns => (1 << 2, 1 << 0),
        Way::Rows => (1 << 1, 1 << 3),
        Way::None | Way::Both => return vec![line.to_vec()],
    };
    let linked = |a: u32, b: u32| {
        colors.iter().any(|&c| {
            let route = |t: u32| domain.routes[t as usize * domain.colors + c as usize];
            let ((a_in, a_out), (b_in, b_out)) = (route(a), route(b));
            a_out & ahead != 0 && b_in == back || b_out & back != 0 && a_in == ahead
        })
    };
    let mut list: Vec<Vec<u32>> = Vec::new();
    for &tile in line {
        match list.last_mut() {
            Some(run) if run.last().is_some_and(|&last| linked(last, tile)) => run.push(tile),
            _ => list.push(vec![tile]),
        }
    }
    list
}

/// A collective on a run of tiles; returns the end of what leaves it.
fn run_collective(works: &[Work], cost: Cost, ready: &mut [u64]) -> u64 {
    let members: Vec<usize> = (0..works.len()).filter(|&i| works[i].communicates()).collect();
    let only = |f: &dyn Fn(&Work) -> bool| {
        let mut found = members.iter().filter(|&&i| f(&works[i]));
        found.next().copied().filter(|_| found.next().is_none())
    };
    let received = members.iter().any(|&i| works[i].receives);
    let sent = members.iter().any(|&i| works[i].sends);
    let reduce_root = only(&|w| w.receives && !w.sends);
    let broadcast_root = only(&|w| w.sends && !w.receives);
    let both_root = only(&|w| w.receives && w.sends && w.sends_last);
    if received && sent {
        if let Some(root) =
            broadcast_root.filter(|_| members.len() > 2 || !works[members[0]].receives)
            && members.iter().all(|&i| i == root || !works[i].sends)
        {
            return broadcast(works, &members, root, cost, ready);
        }
        if let Some(root) = reduce_root
            && members.iter().all(|&i| i == root || works[i].sends_last)
        {
            return reduce(works, &members, root, cost, ready);
        }
        if let Some(root) = both_root {
            return reduce_and_broadcast(works, &members, root, cost, ready);
        }
    }
    // A stream in or out, or something unknown: the closed form as a whole.
    let start = members.iter().map(|&i| ready[i] + works[i].before).max().unwrap_or(0);
    let end = if received && !sent { cost.whole() } else { start + cost.whole() };
    for &i in &members {
        ready[i] = if works[i].receives {
            end + works[i].after
        } else {
            ready[i] + works[i].before + works[i].last_wavelets
        };
    }
    idle(works, ready);
    end
}

/// Tiles without a part in the collective do their local work.
fn idle(works: &[Work], ready: &mut [u64]) {
    for (r, w) in ready.iter_mut().zip(works).filter(|(_, w)| !w.communicates()) {
        *r += w.before + w.after;
    }
}

/// When the root has everything: every position pays its share of distance and depth.
fn arrive(works: &[Work], members: &[usize], root: usize, cost: Cost, ready: &[u64]) -> u64 {
    let farthest = members.iter().map(|&i| i.abs_diff(root)).max().unwrap_or(0).max(1) as u64;
    let arrival = |&i: &usize| {
        let d = i.abs_diff(root) as u64;
        let way = (cost.distance + cost.depth) * d / farthest;
        let start = if d > 0 { cost.message } else { 0 };
        ready[i] + works[i].before + start + cost.consume + way
    };
    members.iter().map(arrival).max().unwrap_or(0)
}

fn reduce(works: &[Work], members: &[usize], root: usize, cost: Cost, ready: &mut [u64]) -> u64 {
    let cost = cost.of_messages(works[root].last_wavelets);
    let end = arrive(works, members, root, cost, ready) + works[root].after;
    for &i in members {
        ready[i] = if i == root {
            end
        } else {
            ready[i] + works[i].before + works[i].last_wavelets * cost.wavelet + works[i].after
        };
    }
    idle(works, ready);
    0
}

fn broadcast(works: &[Work], members: &[usize], root: usize, cost: Cost, ready: &mut [u64]) -> u64 {
    let start = ready[root] + works[root].before + cost.message;
    let farthest = members.iter().map(|&i| i.abs_diff(root)).max().unwrap_or(0).max(1) as u64;
    for &i in members {
        let d = i.abs_diff(root) as u64;
        ready[i] = if i == root {
            start + works[i].last_wavelets + works[i].after
        } else {
            let arrival = start + cost.consume + cost.depth + cost.distance * d / farthest;
            let own = ready[i] + works[i].before + cost.message + cost.consume;
            arrival.max(own) + works[i].after
        };
    }
    idle(works, ready);
    0
}

fn reduce_and_broadcast(
    works: &[Work],
    members: &[usize],
    root: usize,
    cost: Cost,
    ready: &mut [u64],
) -> u64 {
    let farthest = members.iter().map(|&i| i.abs_diff(root)).max().unwrap_or(0) as u64;
    let payload = works[root].last_wavelets * cost.wavelet;
    let up = Cost {
        consume: cost.consume.saturating_sub(payload),
        distance: cost.distance.saturating_sub(cost.hop * farthest),
        depth: cost.depth.saturating_sub(cost.relay),
        ..cost
    };
    let up = up.of_messages(works[root].last_wavelets);
    let at_root = arrive(works, members, root, up, ready) + works[root].after + cost.message;
    for &i in members {
        let d = i.abs_diff(root) as u64;
        ready[i] = if i == root {
            at_root + works[root].last_wavelets
        } else {
            at_root + payload + cost.hop * d + cost.relay + works[i].after
        };
    }
    idle(works, ready);
    0
}
