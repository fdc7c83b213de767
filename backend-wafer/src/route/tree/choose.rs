//! Which tree: groups of equal size, or groups that grow towards the global root.
//!
//! The sums of roots pass a group later the further inside it stands, and until then it may gather. So
//! from both ends each next group is as large as has gathered when those sums arrive; how large the
//! outermost is, how many there are, and for messages of which length, is tried. Of a root's two sides the one
//! towards the middle is the longer one, by what the other takes to come in; it sends away from the sums
//! that pass. Roots stand at even positions where they can: then the relays of all groups
//! repeat every two positions.

use super::{Group, Line, Pace, Tree, TreeColors, WireFormat};
use plan::Target;

use super::Reach;

/// Largest outermost group, and most groups on a side, that are tried; and how many of the innermost may
/// become part of the group between the sides.
const OUTERMOST_MAX: u32 = 24;
const GROUPS_MAX: usize = 12;
const FEWER: usize = 2;

impl Tree {
    /// The tree with equal groups over `line` with the fewest cycles for messages of `elements`.
    pub fn best(line: Line, colors: TreeColors, elements: u32, target: &Target) -> Self {
        let pace = Pace::of(target);
        let single = Tree::with_group(line, line.len, colors, pace);
        // Even groups: parity inside a group is then parity on the line, and predicates are simpler.
        let sizes = (2..line.len).step_by(2);
        let trees = sizes.map(|s| Tree::with_group(line, s, colors, pace));
        let trees = trees.filter(Tree::is_regular);
        let all = std::iter::once(single.clone()).chain(trees);
        all.min_by_key(|tree| tree.cycles(Reach::Root, elements)).unwrap_or(single)
    }

    /// The tree over `line` with the fewest cycles for an allreduce of `elements`.
    pub fn fastest(line: Line, colors: TreeColors, elements: u32, target: &Target) -> Self {
        let even = Tree::best(line, colors, elements, target);
        let growing = Tree::growing(line, colors, &[elements], Pace::of(target));
        let cycles = |tree: &Tree| tree.cycles(Reach::All, elements);
        let fewest = growing.into_iter().min_by_key(cycles);
        fewest.filter(|tree| cycles(tree) < cycles(&even)).unwrap_or(even)
    }

    /// Trees with equal groups over `line`: one group, and groups of each size that leaves all roots in place.
    pub fn candidates(line: Line, colors: TreeColors, pace: Pace) -> Vec<Self> {
        let sizes = std::iter::once(line.len).chain((2..line.len).step_by(2));
        let trees = sizes.flat_map(|s| {
            let tree = Tree::with_group(line, s, colors, pace);
            let front = Tree::even(line, (s, 0), tree.root_group as u32, (colors, pace));
            [tree, front]
        });
        trees.filter(|t| t.even >= line.len || t.is_regular()).collect()
    }

    /// Trees over `line` whose groups grow, for messages of any of these lengths.
    pub fn growing(line: Line, colors: TreeColors, lengths: &[u32], pace: Pace) -> Vec<Self> {
        let mut trees = Vec::new();
        for &elements in lengths {
            let wavelets = WireFormat::F32.wavelets(elements.into());
            for outermost in 1..=OUTERMOST_MAX.min(line.len / 3) {
                let sides = pace.grow((outermost, line.len / 2), wavelets);
                let all = sides.len();
                let some = all.saturating_sub(FEWER).max(1)..=all;
                trees.extend(some.map(|n| mirrored(line, &sides[..n], (colors, pace))));
            }
        }
        trees
    }
}

impl Pace {
    /// Cycles until a root has taken sides of `outer` and `inner` members, the shorter one first.
    fn gathered(&self, (outer, inner): (u32, u32), wavelets: u64) -> u64 {
        let side = |n: u32| self.message + u64::from(n) * (self.relay + self.hop);
        let sides = [outer, inner].into_iter().filter(|&n| n > 0);
        sides.fold(0, |now, n| side(n).max(now + self.message) + wavelets)
    }

    /// A root's members towards the end of the line and towards its middle.
    fn split(&self, members: u32, wavelets: u64) -> (u32, u32) {
        let more = (wavelets + self.message).div_ceil(self.relay + self.hop) as u32;
        let inner = members.min((members + more).div_ceil(2));
        (members - inner, inner)
    }

    /// The groups of half a line of `most` positions, from its end: members before and behind each root.
    fn grow(&self, (outermost, most): (u32, u32), wavelets: u64) -> Vec<(u32, u32)> {
        let first = self.split(outermost - 1, wavelets);
        let mut groups = vec![first];
        let mut used = outermost;
        // The last side of the outermost root is sent on as it comes.
        let mut wave = self.gathered(first, wavelets).saturating_sub(wavelets).max(self.message);
        let mut behind = first.1;
        while groups.len() < GROUPS_MAX {
            let passes = |sides: (u32, u32)| {
                let hops = u64::from(behind + 1 + sides.0);
                wave + self.relay + hops * self.hop
            };
            let fits = |n: &u32| {
                let sides = self.split(*n, wavelets);
                self.gathered(sides, wavelets) + self.message <= passes(sides)
            };
            let members = (0..most).take_while(fits).last().unwrap_or(0);
            if used + members + 1 >= most {
                break;
            }
            let sides = self.split(members, wavelets);
            wave = passes(sides);
            behind = sides.1;
            used += members + 1;
            groups.push(sides);
        }
        groups
    }
}

/// The tree with these groups at both ends of the line and one that holds what is left between them.
fn mirrored(line: Line, sides: &[(u32, u32)], (colors, pace): (TreeColors, Pace)) -> Tree {
    let mut groups = Vec::new();
    let mut first = 0;
    for &(outer, inner) in sides {
        let end = first + outer + 1 + inner;
        groups.push(Group { first, root: first + outer, end });
        first = end;
    }
    let other = |g: &Group| Group {
        first: line.len - g.end,
        root: line.len - 1 - g.root,
        end: line.len - g.first,
    };
    let behind: Vec<Group> = groups.iter().rev().map(other).collect();
    let root_group = groups.len();
    groups.push(Group { first, root: line.len / 2, end: line.len - first });
    groups.extend(behind);
    groups.iter_mut().for_each(settle);
    let one = Tree::with_group(line, line.len, colors, pace);
    Tree { groups, root_group, even: 0, streams: true, ..one }
}

/// Moves a root to an even position of its group.
fn settle(group: &mut Group) {
    if group.root % 2 == 1 {
        if group.root > group.first {
            group.root -= 1;
        } else if group.root + 1 < group.end {
            group.root += 1;
        }
    }
}
