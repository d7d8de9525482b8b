//! Values at the ends of ways of steps: path prefixes by their segments, host suffixes by their labels.

use std::collections::HashMap;

use super::looked;

/// A look-up takes a step at a time, so it costs what the way that is looked up costs, however many ways there are.
#[derive(Clone, Debug)]
pub(super) struct Tree<T> {
    /// The first one, if there is any, is where all ways start.
    nodes: Vec<Node<T>>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    value: T,
    /// Index of the node one step before; of the first one its own.
    parent: usize,
    children: HashMap<Box<[u8]>, usize>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { nodes: Vec::new() }
    }
}

impl<T: Default> Tree<T> {
    /// The value at the end of a way.
    pub fn entry<'s>(&mut self, steps: impl Iterator<Item = &'s [u8]>) -> &mut T {
        let mut at = 0;
        if self.nodes.is_empty() {
            self.add(0);
        }
        for step in steps {
            at = match self.nodes[at].children.get(step) {
                Some(&child) => child,
                None => {
                    let child = self.add(at);
                    self.nodes[at].children.insert(step.into(), child);
                    child
                }
            };
        }
        &mut self.nodes[at].value
    }

    /// The values along a way, the one that is nearest to its end first.
    pub fn nearest_first<'t, 's>(&'t self, steps: impl Iterator<Item = &'s [u8]>) -> impl Iterator<Item = &'t T> {
        let mut at = 0;
        for step in steps {
            let Some(node) = self.nodes.get(at).filter(|node| !node.children.is_empty()) else { break };
            looked();
            let Some(&child) = node.children.get(step) else { break };
            at = child;
        }
        let above = |node: &&'t Node<T>| self.nodes.get(node.parent).filter(|parent| !std::ptr::eq(*parent, *node));
        std::iter::successors(self.nodes.get(at), above).map(|node| &node.value)
    }

    fn add(&mut self, parent: usize) -> usize {
        self.nodes.push(Node { value: T::default(), parent, children: HashMap::new() });
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(way: &str) -> impl Iterator<Item = &[u8]> {
        way.split('.').filter(|step| !step.is_empty()).map(str::as_bytes)
    }

    #[test]
    fn values_come_from_the_end_of_the_way_to_its_start() {
        let mut tree: Tree<&str> = Tree::default();
        assert_eq!(tree.nearest_first(steps("a")).count(), 0, "an empty tree has no values");
        for way in ["", "a", "a.b.c", "b"] {
            *tree.entry(steps(way)) = if way.is_empty() { "start" } else { way };
        }
        let found = |way| tree.nearest_first(steps(way)).copied().collect::<Vec<_>>();
        assert_eq!(found("a.b.c.d"), ["a.b.c", "", "a", "start"]);
        assert_eq!(found("a.c"), ["a", "start"]);
        assert_eq!(found("c.a"), ["start"]);
        assert_eq!(found(""), ["start"]);
    }
}
