//! Reads little-endian numbers and strings from a byte slice. Never reads past the end, never allocates.

/// What is wrong with a byte stream, and where. The reader of the file adds its path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub offset: usize,
    pub reason: String,
}

/// A position in a file.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Bytes between here and the end of the file.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `length` bytes, which are `what`.
    pub fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Fault> {
        if length > self.remaining() {
            let reason = format!("the file ends inside {what} ({length} bytes wanted, {} left)", self.remaining());
            return Err(Fault { offset: self.at, reason });
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.take(4, what).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.take(8, what).map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A 64-bit length that something of at least `unit` bytes for each must follow, so it is bounded by the file.
    pub fn count(&mut self, unit: usize, what: &str) -> Result<usize, Fault> {
        let at = self.at;
        let count = self.u64(what)?;
        match usize::try_from(count).ok().filter(|n| n.checked_mul(unit).is_some_and(|n| n <= self.remaining())) {
            Some(count) => Ok(count),
            None => {
                let reason = format!("{what} is {count}, more than the {} bytes left could hold", self.remaining());
                Err(Fault { offset: at, reason })
            }
        }
    }

    /// A string: 64-bit length, then UTF-8.
    pub fn string(&mut self, what: &str) -> Result<&'a str, Fault> {
        let length = self.count(1, what)?;
        let at = self.at;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes)
            .map_err(|error| Fault { offset: at + error.valid_up_to(), reason: format!("{what} is not UTF-8") })
    }
}
