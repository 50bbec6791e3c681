//! Doubly linked lists whose nodes live in one slab: whoever holds an id takes its node out in a fixed number of steps,
//! wherever in its list it stands. Cloning is copying.

use std::ops::{Index, IndexMut};

/// Where a node lies. Valid until the node is removed; then the place is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(usize);

/// Both ends of a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    head: Option<Id>,
    tail: Option<Id>,
    len: usize,
}

impl List {
    pub fn front(&self) -> Option<Id> {
        self.head
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }
}

#[derive(Clone, Debug)]
struct Node<V> {
    value: V,
    before: Option<Id>,
    after: Option<Id>,
}

/// The nodes of many lists. It keeps the memory of its fullest time.
#[derive(Clone, Debug)]
pub(super) struct Slab<V> {
    nodes: Vec<Option<Node<V>>>,
    free: Vec<Id>,
    /// How often a node was looked at: what "in a fixed number of steps" is checked by.
    #[cfg(test)]
    pub steps: std::cell::Cell<u64>,
}

impl<V> Default for Slab<V> {
    fn default() -> Self {
        Self {
            nodes: vec![],
            free: vec![],
            #[cfg(test)]
            steps: std::cell::Cell::default(),
        }
    }
}

impl<V> Slab<V> {
    /// Nodes in all lists.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// A new last node.
    pub fn push_back(&mut self, list: &mut List, value: V) -> Id {
        self.insert(list, None, value)
    }

    /// A new node in front of another one of the list; the last one for `None`.
    pub fn insert(&mut self, list: &mut List, after: Option<Id>, value: V) -> Id {
        let node = Some(Node { value, before: None, after: None });
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.nodes.push(None);
                Id(self.nodes.len() - 1)
            }
        };
        self.nodes[id.0] = node;
        self.link(list, id, after);
        id
    }

    /// Takes a node out of the list that it is in.
    pub fn remove(&mut self, list: &mut List, id: Id) -> V {
        self.unlink(list, id);
        self.free.push(id);
        taken(self.nodes[id.0].take()).value
    }

    /// Makes the first node the last.
    pub fn rotate(&mut self, list: &mut List) {
        if let Some(first) = list.head.filter(|_| list.len > 1) {
            self.unlink(list, first);
            self.link(list, first, None);
        }
    }

    /// The node behind this one in its list.
    pub fn after(&self, id: Id) -> Option<Id> {
        self.node(id).after
    }

    fn link(&mut self, list: &mut List, id: Id, after: Option<Id>) {
        let before = match after {
            Some(after) => self.node_mut(after).before.replace(id),
            None => list.tail.replace(id),
        };
        match before {
            Some(before) => self.node_mut(before).after = Some(id),
            None => list.head = Some(id),
        }
        let node = self.node_mut(id);
        (node.before, node.after) = (before, after);
        list.len += 1;
    }

    fn unlink(&mut self, list: &mut List, id: Id) {
        let node = self.node(id);
        let (before, after) = (node.before, node.after);
        match before {
            Some(before) => self.node_mut(before).after = after,
            None => list.head = after,
        }
        match after {
            Some(after) => self.node_mut(after).before = before,
            None => list.tail = before,
        }
        list.len -= 1;
    }

    fn node(&self, id: Id) -> &Node<V> {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        taken(self.nodes[id.0].as_ref())
    }

    fn node_mut(&mut self, id: Id) -> &mut Node<V> {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        taken(self.nodes[id.0].as_mut())
    }
}

#[allow(clippy::expect_used, reason = "ids are forgotten together with their nodes")]
fn taken<N>(node: Option<N>) -> N {
    node.expect("the id of a node that is there")
}

impl<V> Index<Id> for Slab<V> {
    type Output = V;
    fn index(&self, id: Id) -> &V {
        &self.node(id).value
    }
}

impl<V> IndexMut<Id> for Slab<V> {
    fn index_mut(&mut self, id: Id) -> &mut V {
        &mut self.node_mut(id).value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn order(slab: &Slab<u32>, list: &List) -> Vec<u32> {
        let mut found = vec![];
        let mut at = list.front();
        while let Some(id) = at {
            found.push(slab[id]);
            at = slab.after(id);
        }
        found
    }

    proptest! {
        #[test]
        fn a_list_is_what_a_deque_is_and_no_place_is_lost(
            steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>()), 0..200),
        ) {
            let (mut slab, mut list) = (Slab::default(), List::default());
            let mut model: VecDeque<(u32, Id)> = VecDeque::new();
            let mut most = 0;
            for (n, (step, which)) in (0u32..).zip(steps) {
                let at = (!model.is_empty()).then(|| which.index(model.len()));
                match (step, at) {
                    (0, _) | (1, None) => model.push_back((n, slab.push_back(&mut list, n))),
                    (1, Some(at)) => {
                        let id = slab.insert(&mut list, Some(model[at].1), n);
                        model.insert(at, (n, id));
                    }
                    (2, _) => {
                        slab.rotate(&mut list);
                        if !model.is_empty() {
                            model.rotate_left(1);
                        }
                    }
                    (_, Some(at)) => {
                        let (value, id) = model.remove(at).unwrap();
                        prop_assert_eq!(slab.remove(&mut list, id), value);
                    }
                    (_, None) => {}
                }
                most = most.max(model.len());
                prop_assert_eq!(order(&slab, &list), model.iter().map(|m| m.0).collect::<Vec<_>>());
                prop_assert_eq!((list.len(), slab.len()), (model.len(), model.len()));
                prop_assert!(slab.nodes.len() <= most);
            }
        }
    }
}
