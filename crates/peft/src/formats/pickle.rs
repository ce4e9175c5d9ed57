//! The subset of Python's pickle format in which `torch.save` describes a dictionary of tensors. It is read as data: a name
//! that is not one of the few below is an error, and nothing is ever called.

use std::rc::Rc;

/// Values may be nested so deep.
const MAX_DEPTH: usize = 16;

/// A value on the machine's stack.
#[derive(Clone, Debug)]
pub(super) enum Item {
    None,
    Boolean,
    Integer(i64),
    Text(Rc<str>),
    Tuple(Rc<[Item]>, usize),
    /// Entries of a dictionary, as far as they have been read; the depth of the deepest.
    Dictionary(Rc<Vec<(Item, Item)>>, usize),
    /// Values that no tensor needs.
    Other,
    Name(Known),
    Storage(Storage),
    Tensor(Rc<Stored>),
}

/// Names that may stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    OrderedDictionary,
    Tensor,
    Parameter,
    Type(ElementType),
}

/// Element types of torch's storages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    /// Others, by their size.
    Other,
}

/// A run of elements in a file of its own.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub element: ElementType,
    pub key: Rc<str>,
    pub elements: usize,
}

/// A tensor in a storage.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

fn known(module: &str, name: &str) -> Option<Known> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Known::OrderedDictionary,
        ("torch._utils", "_rebuild_tensor_v2") => Known::Tensor,
        ("torch._utils", "_rebuild_parameter") => Known::Parameter,
        ("torch", "DoubleStorage") => Known::Type(ElementType::F64),
        ("torch", "FloatStorage") => Known::Type(ElementType::F32),
        ("torch", "HalfStorage") => Known::Type(ElementType::F16),
        ("torch", "BFloat16Storage") => Known::Type(ElementType::Bf16),
        ("torch", "LongStorage") => Known::Type(ElementType::I64),
        ("torch", "IntStorage") => Known::Type(ElementType::I32),
        ("torch", "ShortStorage" | "CharStorage" | "ByteStorage" | "BoolStorage") => {
            Known::Type(ElementType::Other)
        }
        _ => return None,
    })
}

/// Tensors by name, in the order of the file.
///
/// # Errors
/// A sentence that says what in the file is not tensors in a dictionary.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(String, Rc<Stored>)>, String> {
    let mut machine = Machine { rest: bytes, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    match machine.run()? {
        Item::Dictionary(entries, _) => entries
            .iter()
            .map(|(key, value)| match (key, value) {
                (Item::Text(key), Item::Tensor(tensor)) => Ok((key.to_string(), Rc::clone(tensor))),
                (Item::Text(key), _) => Err(format!("`{key}` in it is no tensor")),
                _ => Err("a key of its dictionary is no text".into()),
            })
            .collect(),
        _ => Err("it holds no dictionary of tensors".into()),
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Item>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Item>,
}

fn ends() -> String {
    "its description of the tensors ends too early".into()
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Item, String> {
        loop {
            let code = self.take(1)?[0];
            match code {
                // PROTO, FRAME
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'}' => self.stack.push(Item::Dictionary(Rc::default(), 1)),
                b')' => self.stack.push(Item::Tuple(Rc::new([]), 1)),
                b']' => self.stack.push(Item::Other),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.stack.push(Item::None),
                0x88 | 0x89 => self.stack.push(Item::Boolean),
                b'K' => self.integer(1)?,
                b'M' => self.integer(2)?,
                b'J' => {
                    let bytes = self.array::<4>()?;
                    self.stack.push(Item::Integer(i32::from_le_bytes(bytes).into()));
                }
                // LONG1
                0x8a => {
                    let length = usize::from(self.take(1)?[0]);
                    let bytes = self.take(length)?;
                    self.stack.push(long(bytes).ok_or("an integer in it is too large")?);
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Item::Other);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.text(length as usize)?;
                }
                0x8c => {
                    let length = self.take(1)?[0];
                    self.text(length.into())?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.name(&module, &name)?;
                }
                // STACK_GLOBAL
                0x93 => match (self.pop()?, self.pop()?) {
                    (Item::Text(name), Item::Text(module)) => self.name(&module, &name)?,
                    _ => return Err("a name in it is no text".into()),
                },
                b'q' => {
                    let index = self.take(1)?[0];
                    self.remember(index.into())?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.remember(index as usize)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let index = self.take(1)?[0];
                    self.recall(index.into())?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index as usize)?;
                }
                b't' => {
                    let items = self.above_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => {
                    let start = self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or_else(ends)?;
                    let items = self.stack.split_off(start);
                    self.tuple(items)?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b's' => {
                    let start = self.stack.len().checked_sub(2).ok_or_else(ends)?;
                    let pair = self.stack.split_off(start);
                    self.set(pair)?;
                }
                b'u' => {
                    let items = self.above_mark()?;
                    self.set(items)?;
                }
                b'a' => drop(self.pop()?),
                b'e' => drop(self.above_mark()?),
                // BUILD: what torch remembers about a dictionary beside its entries.
                b'b' => drop(self.pop()?),
                b'.' => return self.pop(),
                other => return Err(format!("its pickle has code {other:#04x}, which no tensor needs")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(ends)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(ends)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(ends)?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text in it is not UTF-8")?;
        let item = Item::Text(text.into());
        self.stack.push(item);
        Ok(())
    }

    fn integer(&mut self, size: usize) -> Result<(), String> {
        let value = self.take(size)?.iter().rev().fold(0, |value, byte| value << 8 | i64::from(*byte));
        self.stack.push(Item::Integer(value));
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = known(module, name).ok_or_else(|| {
            format!("it names `{module}.{name}`, which no tensor needs and which might run a program; it is not read")
        })?;
        self.stack.push(Item::Name(known));
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, String> {
        self.stack.pop().ok_or_else(ends)
    }

    fn above_mark(&mut self) -> Result<Vec<Item>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or_else(ends)?;
        Ok(self.stack.split_off(mark))
    }

    /// Files number what they remember without gaps.
    fn remember(&mut self, index: usize) -> Result<(), String> {
        let item = self.stack.last().cloned().ok_or_else(ends)?;
        match index.cmp(&self.memo.len()) {
            std::cmp::Ordering::Less => self.memo[index] = item,
            std::cmp::Ordering::Equal => self.memo.push(item),
            std::cmp::Ordering::Greater => return Err("what its pickle remembers has gaps".into()),
        }
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<(), String> {
        match self.memo.get(index).cloned() {
            // It may have changed since it was remembered.
            Some(Item::Dictionary(..)) => Err("a dictionary stands in it twice".into()),
            Some(item) => {
                self.stack.push(item);
                Ok(())
            }
            None => Err("its pickle recalls what it never had".into()),
        }
    }

    fn tuple(&mut self, items: Vec<Item>) -> Result<(), String> {
        let depth = deepest(&items)? + 1;
        self.stack.push(Item::Tuple(items.into(), depth));
        Ok(())
    }

    fn set(&mut self, items: Vec<Item>) -> Result<(), String> {
        let below = deepest(&items)? + 1;
        let Some(Item::Dictionary(entries, depth)) = self.stack.last_mut() else {
            return Err("entries in it belong to no dictionary".into());
        };
        if !items.len().is_multiple_of(2) {
            return Err("a key in it has no value".into());
        }
        *depth = below.max(*depth);
        // The one that was remembered is never looked at.
        let entries = Rc::make_mut(entries);
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            entries.push((key, value));
        }
        Ok(())
    }

    /// `('storage', type, key, device, elements)`.
    fn persistent(&mut self) -> Result<(), String> {
        let storage = match self.pop()? {
            Item::Tuple(items, _) => match &*items {
                [
                    Item::Text(word),
                    Item::Name(Known::Type(element)),
                    Item::Text(key),
                    Item::Text(_),
                    Item::Integer(elements),
                ] if &**word == "storage" => {
                    let elements = usize::try_from(*elements).ok();
                    elements.map(|elements| Storage { element: *element, key: Rc::clone(key), elements })
                }
                _ => None,
            },
            _ => None,
        };
        self.stack.push(Item::Storage(storage.ok_or("a storage in it is not described as torch does")?));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Item::Tuple(arguments, _) = arguments else { return Err("a call in it has no arguments".into()) };
        let item = match (function, &*arguments) {
            (Item::Name(Known::OrderedDictionary), []) => Item::Dictionary(Rc::default(), 1),
            (Item::Name(Known::Parameter), [tensor @ Item::Tensor(_), ..]) => tensor.clone(),
            (
                Item::Name(Known::Tensor),
                [
                    Item::Storage(storage),
                    Item::Integer(offset),
                    Item::Tuple(shape, _),
                    Item::Tuple(strides, _),
                    ..,
                ],
            ) => {
                let tensor = stored(storage, *offset, shape, strides);
                Item::Tensor(Rc::new(tensor.ok_or("a tensor in it is not described as torch does")?))
            }
            _ => return Err("a call in it makes no tensor".into()),
        };
        self.stack.push(item);
        Ok(())
    }
}

fn deepest(items: &[Item]) -> Result<usize, String> {
    let depth = |item: &Item| match item {
        Item::Tuple(_, depth) | Item::Dictionary(_, depth) => *depth,
        _ => 0,
    };
    let deepest = items.iter().map(depth).max().unwrap_or(0);
    if deepest < MAX_DEPTH { Ok(deepest) } else { Err("its values are nested too deep".into()) }
}

/// A little-endian integer of any length.
fn long(bytes: &[u8]) -> Option<Item> {
    if bytes.len() > 8 {
        return None;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Some(Item::Integer(i64::from_le_bytes(value)))
}

fn stored(storage: &Storage, offset: i64, shape: &[Item], strides: &[Item]) -> Option<Stored> {
    let sizes = |items: &[Item]| -> Option<Vec<usize>> {
        let size = |item: &Item| match item {
            Item::Integer(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        items.iter().map(size).collect()
    };
    let (shape, strides) = (sizes(shape)?, sizes(strides)?);
    let stored = Stored { storage: storage.clone(), offset: usize::try_from(offset).ok()?, shape, strides };
    (stored.shape.len() == stored.strides.len()).then_some(stored)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_is_no_dictionary_of_tensors_is_refused() {
        let deep = [&b"\x80\x02)"[..], &[0x85; 100], b"."].concat();
        let cases: [(&[u8], &str); 13] = [
            (b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.", "posix.system"),
            (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
            (b"cbuiltins\neval\n.", "builtins.eval"),
            (&deep, "nested too deep"),
            (b"", "ends too early"),
            (b"\x80\x02}q\0", "ends too early"),
            (b"}K\x01K\x02s.", "no text"),
            (b"}X\x01\0\0\0aK\x02s.", "`a` in it is no tensor"),
            (b"}q\0h\0.", "twice"),
            (b"K\x01.", "no dictionary"),
            (b"h\x07.", "never had"),
            (b"i", "code 0x69"),
            (b"ccollections\nOrderedDict\nX\x01\0\0\0a\x85R.", "makes no tensor"),
        ];
        for (bytes, words) in cases {
            let error = read(bytes).err().unwrap_or_else(|| panic!("{words}"));
            assert!(error.contains(words), "`{words}` is not in: {error}");
        }
        assert!(read(b"\x80\x02}.").is_ok_and(|tensors| tensors.is_empty()));
    }
}
