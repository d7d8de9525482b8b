//! A driver's table of sockets: names are reused with another generation, so that a stale one finds nothing.

use crate::driver::SockId;

/// Generations stay below this, so that one fits beside an index and an operation in 64 bits of `user_data`.
pub(crate) const GENERATION_BITS: u32 = 24;

#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Vec<Row<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Row<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> SockId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row { generation: 0, value: None });
            // One row a descriptor, and descriptors are 31-bit numbers.
            (self.rows.len() - 1) as u32
        });
        let row = &mut self.rows[index as usize];
        row.value = Some(value);
        SockId::new(index, row.generation)
    }

    #[inline]
    pub(crate) fn get(&self, id: SockId) -> Option<&T> {
        let row = self.rows.get(id.index() as usize)?;
        row.value.as_ref().filter(|_| row.generation == id.generation())
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: SockId) -> Option<&mut T> {
        let row = self.rows.get_mut(id.index() as usize)?;
        row.value.as_mut().filter(|_| row.generation == id.generation())
    }

    /// All rows, in the order of their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SockId, &T)> {
        self.rows.iter().enumerate().filter_map(|(index, row)| {
            let value = row.value.as_ref()?;
            Some((SockId::new(index as u32, row.generation), value))
        })
    }

    pub(crate) fn remove(&mut self, id: SockId) -> Option<T> {
        self.get(id)?;
        let row = &mut self.rows[id.index() as usize];
        row.generation = (row.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(id.index());
        row.value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.index(), first.index());
        assert_ne!(second, first);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
    }
}
