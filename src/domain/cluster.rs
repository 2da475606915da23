//! The life of a cluster, and how containers are placed in it.

use super::{Machine, machine::named};

/// Where a cluster stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterStatus {
    /// Its engine has not answered yet.
    Creating,
    /// It takes containers.
    Active,
    /// It takes no new ones, and those it has are leaving.
    Draining,
    /// What is left in it is being removed.
    Deleting,
    /// It is gone.
    Deleted,
    /// Its engine could not be used.
    Failed,
}

impl ClusterStatus {
    /// Whether its engine is known to be there.
    pub const fn has_engine(self) -> bool {
        match self {
            Self::Active | Self::Draining | Self::Deleting => true,
            Self::Creating | Self::Deleted | Self::Failed => false,
        }
    }
}

/// What happens to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterEvent {
    Activate,
    Fail,
    Drain,
    Delete,
    Removed,
}

named!(ClusterStatus {
    Creating = "creating",
    Active = "active",
    Draining = "draining",
    Deleting = "deleting",
    Deleted = "deleted",
    Failed = "failed",
});

impl Machine for ClusterStatus {
    type Event = ClusterEvent;
    const TERMINAL: &'static [Self] = &[Self::Deleted];
    const TABLE: &'static [(Self, ClusterEvent, Self)] = {
        use ClusterEvent as E;
        use ClusterStatus as S;
        &[
            (S::Creating, E::Activate, S::Active),
            (S::Creating, E::Fail, S::Failed),
            (S::Creating, E::Delete, S::Deleting),
            (S::Active, E::Drain, S::Draining),
            (S::Active, E::Delete, S::Deleting),
            // What was drained may be used again.
            (S::Draining, E::Activate, S::Active),
            (S::Draining, E::Delete, S::Deleting),
            (S::Failed, E::Activate, S::Active),
            (S::Failed, E::Delete, S::Deleting),
            (S::Deleting, E::Removed, S::Deleted),
        ]
    };
}

/// Which of the hosts with room gets the next container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// The emptiest.
    Spread,
    /// The fullest.
    Pack,
}

named!(Placement { Spread = "spread", Pack = "pack" });

/// What a host has, and how much of it is promised to containers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Room {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub cpu_taken: i64,
    pub memory_taken: i64,
    pub containers: i64,
}

impl Room {
    /// Whether it takes a container of this size. A host that does not say what it has takes any.
    pub const fn takes(&self, cpu_millis: i64, memory_bytes: i64) -> bool {
        (self.cpu_millis == 0 || self.cpu_taken + cpu_millis <= self.cpu_millis)
            && (self.memory_bytes == 0 || self.memory_taken + memory_bytes <= self.memory_bytes)
    }

    /// How full it is, in thousandths of what it has: its fuller side, then the number of its containers.
    const fn fullness(&self) -> (i64, i64) {
        const fn share(taken: i64, all: i64) -> i64 {
            if all > 0 { taken * 1000 / all } else { 0 }
        }
        let (cpu, memory) = (
            share(self.cpu_taken, self.cpu_millis),
            share(self.memory_taken, self.memory_bytes),
        );
        (if cpu > memory { cpu } else { memory }, self.containers)
    }
}

impl Placement {
    /// Which of `rooms` takes a container of this size; `None` when none does.
    pub fn choose(self, rooms: &[Room], cpu_millis: i64, memory_bytes: i64) -> Option<usize> {
        let fitting = (0..rooms.len()).filter(|at| rooms[*at].takes(cpu_millis, memory_bytes));
        match self {
            Self::Spread => fitting.min_by_key(|at| rooms[*at].fullness()),
            Self::Pack => fitting.max_by_key(|at| rooms[*at].fullness()),
        }
    }
}

/// What a cluster has to have room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// What its containers are promised, those on their way among them.
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub containers: i64,
    /// How many it has to have room for at any time.
    pub min_containers: i64,
    /// The size of one that nobody has asked for yet: thousandths of a processor and bytes.
    pub usual: (i64, i64),
}

impl Demand {
    /// How many of these machines are needed, each given as the thousandths of a processor and the bytes it has, the ones to
    /// be used first in front; all of them when they do not suffice. One container of the usual size may go unplaced on each,
    /// since what is left on several machines is no room on one.
    pub fn machines(&self, machines: &[(i64, i64)]) -> usize {
        let more = (self.min_containers - self.containers).max(0);
        let (usual_cpu, usual_memory) = self.usual;
        let mut cpu = self.cpu_millis + more * usual_cpu;
        let mut memory = self.memory_bytes + more * usual_memory;
        for (count, (has_cpu, has_memory)) in machines.iter().enumerate() {
            if cpu <= 0 && memory <= 0 {
                return count;
            }
            let whole = |has: i64, one: i64| if one > 0 { has - has % one } else { has };
            cpu -= whole(*has_cpu, usual_cpu);
            memory -= whole(*has_memory, usual_memory);
        }
        machines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_machines_are_needed_as_hold_what_there_is_and_the_least_there_must_be() {
        let machines = [(2000, 4000); 5];
        let demand = |cpu_millis, containers, min_containers| Demand {
            cpu_millis,
            memory_bytes: containers * 100,
            containers,
            min_containers,
            usual: (900, 100),
        };
        assert_eq!(demand(0, 0, 0).machines(&machines), 0);
        assert_eq!(demand(900, 1, 0).machines(&machines), 1);
        // Two of 900 fit on one of 2000, whatever is left over.
        assert_eq!(demand(1800, 2, 2).machines(&machines), 1);
        assert_eq!(demand(2700, 3, 0).machines(&machines), 2);
        assert_eq!(demand(900, 1, 5).machines(&machines), 3);
        assert_eq!(demand(0, 0, 1_000).machines(&machines), 5);
        let of_memory = Demand {
            memory_bytes: 4100,
            ..demand(0, 1, 0)
        };
        assert_eq!(of_memory.machines(&machines), 2);
        assert_eq!(demand(900, 1, 0).machines(&[]), 0);
    }

    #[test]
    fn the_life_of_a_cluster_is_sound() {
        crate::domain::machine::laws::hold_for(ClusterStatus::Creating);
    }

    const fn room(cpu_taken: i64, containers: i64) -> Room {
        Room {
            cpu_millis: 1000,
            memory_bytes: 1000,
            cpu_taken,
            memory_taken: 0,
            containers,
        }
    }

    #[test]
    fn spreading_takes_the_emptiest_and_packing_the_fullest_with_room() {
        let rooms = [room(500, 2), room(100, 1), room(950, 3)];
        assert_eq!(Placement::Spread.choose(&rooms, 100, 1), Some(1));
        assert_eq!(Placement::Pack.choose(&rooms, 100, 1), Some(0));
        assert_eq!(Placement::Pack.choose(&rooms, 50, 1), Some(2));
        assert_eq!(Placement::Spread.choose(&rooms, 901, 1), None);
        assert_eq!(Placement::Spread.choose(&[], 0, 0), None);
    }
}
