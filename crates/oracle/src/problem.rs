//! Describes a problem in a few words and makes its matrices.

use crate::matrix::{Arrangement, Matrix};
use crate::oracle::Dropout;
use crate::random::Random;
use crate::run::{
    AdapterArguments, BackwardArguments, BackwardLayer, ForwardArguments, ForwardLayer, FrozenArguments,
    FrozenBackwardArguments, Gradient, Place,
};
use lora_kernels::DType;
use lora_kernels::ops::WriteMode;

/// Element types of a layer and of its adapter.
pub const DTYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::F16, DType::F16),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F32),
    (DType::Bf16, DType::F32),
];

/// How the arguments lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangements {
    /// Row-major, without gaps, from the start of a buffer.
    Packed,
    /// Every argument is a transposed view.
    Transposed,
    /// W, A and B are transposed views of PEFT's parameters, and their gradients lie as they do.
    Peft,
    /// Gaps of odd length between rows; no matrix starts at an aligned address.
    Unaligned,
    /// Rows padded to a multiple of 8 elements, as an allocator with a pitch would.
    Padded,
    /// Anything, by this seed.
    Mixed(u64),
    /// The input of this name has one row, or one column where `transposed`, again and again; the others are packed.
    Repeated { name: &'static str, transposed: bool },
}

impl Arrangements {
    pub const ALL: [Arrangements; 6] = [
        Arrangements::Packed,
        Arrangements::Transposed,
        Arrangements::Peft,
        Arrangements::Unaligned,
        Arrangements::Padded,
        Arrangements::Mixed(1),
    ];

    /// Arrangement of the argument called `name`.
    fn of(self, name: &str, rows: usize, cols: usize) -> Arrangement {
        let plain = Arrangement::default();
        match self {
            Arrangements::Packed => plain,
            Arrangements::Transposed => Arrangement { transposed: true, ..plain },
            Arrangements::Peft => {
                Arrangement { transposed: ["w", "a", "b", "da", "db"].contains(&name), ..plain }
            }
            Arrangements::Unaligned => {
                Arrangement { gap: if cols.is_multiple_of(2) { 1 } else { 2 }, offset: 1, ..plain }
            }
            Arrangements::Padded => Arrangement { gap: cols.next_multiple_of(8) - cols, ..plain },
            Arrangements::Repeated { name: repeated, transposed } => {
                let repeated = name == repeated;
                Arrangement { repeated, transposed: transposed && repeated, ..plain }
            }
            Arrangements::Mixed(seed) => {
                let hash = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(257) + u64::from(byte));
                let mut random = Random::new(hash ^ (rows as u64) << 32 ^ cols as u64);
                Arrangement {
                    transposed: random.below(2) == 1,
                    gap: random.below(10) as usize,
                    offset: random.below(9) as usize,
                    repeated: false,
                }
            }
        }
    }
}

/// What the matrices hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Uniform between -1 and 1.
    Random,
    /// -1, 0 and 1, for comparing bit for bit.
    SmallIntegers,
}

/// One layer's output features and rank.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub out_features: usize,
    pub rank: usize,
}

/// Everything that determines a forward and the backward that belongs to it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub rows: usize,
    pub in_features: usize,
    pub layers: Vec<Layer>,
    pub dtype: DType,
    pub adapter_dtype: DType,
    /// Of every second layer, where it is another.
    pub other_adapter_dtype: Option<DType>,
    /// Element type of the bias and its gradient, if there is one.
    pub bias: Option<DType>,
    pub dropout: Option<Dropout>,
    pub scale: f32,
    pub arrangements: Arrangements,
    pub values: Values,
    /// Whether the forward saves S, and the backward gets it.
    pub save_s: bool,
    /// Where W, A, B, X and S are.
    pub place: Place,
    pub seed: u64,
}

impl Problem {
    /// A single f32 layer.
    pub fn new(rows: usize, in_features: usize, out_features: usize, rank: usize) -> Self {
        Problem {
            rows,
            in_features,
            layers: vec![Layer { out_features, rank }],
            dtype: DType::F32,
            adapter_dtype: DType::F32,
            other_adapter_dtype: None,
            bias: None,
            dropout: None,
            scale: 0.75,
            arrangements: Arrangements::Packed,
            values: Values::Random,
            save_s: false,
            place: Place::Apart,
            seed: 1,
        }
    }

    pub fn dtypes(self, (dtype, adapter_dtype): (DType, DType)) -> Self {
        Problem { dtype, adapter_dtype, ..self }
    }

    pub fn bias(self, dtype: DType) -> Self {
        Problem { bias: Some(dtype), ..self }
    }

    pub fn dropout(self, probability: f32) -> Self {
        Problem {
            dropout: Some(Dropout { probability, seed: 0x1234_5678_9ABC_DEF0, offset: 42 << 30 }),
            ..self
        }
    }

    pub fn arranged(self, arrangements: Arrangements) -> Self {
        Problem { arrangements, ..self }
    }

    /// Values and scale for which every backend must find the same bits.
    pub fn small_integers(self) -> Self {
        Problem { values: Values::SmallIntegers, scale: 2.0, ..self }
    }

    pub fn saving_s(self) -> Self {
        Problem { save_s: true, ..self }
    }

    pub fn placed(self, place: Place) -> Self {
        Problem { place, ..self }
    }

    fn adapter_dtype_of(&self, layer: usize) -> DType {
        self.other_adapter_dtype.filter(|_| layer % 2 == 1).unwrap_or(self.adapter_dtype)
    }

    /// A matrix of this problem: the same name in the same layer has the same values each time.
    fn input(&self, name: &str, layer: usize, dtype: DType, rows: usize, cols: usize) -> Matrix {
        let hash = name.bytes().fold(self.seed + layer as u64 * 1009, |hash, byte| {
            hash.wrapping_mul(0x100_0000_01B3) ^ u64::from(byte)
        });
        let mut random = Random::new(hash);
        let arrangement = self.arrangements.of(name, rows, cols);
        Matrix::from_fn(dtype, rows, cols, arrangement, |_, _| match self.values {
            Values::Random => random.symmetric(),
            Values::SmallIntegers => random.small_integer(),
        })
    }

    fn unwritten(&self, name: &str, dtype: DType, rows: usize, cols: usize) -> Matrix {
        Matrix::poisoned(dtype, rows, cols, self.arrangements.of(name, rows, cols))
    }

    /// X.
    pub fn x(&self) -> Matrix {
        self.input("x", 0, self.dtype, self.rows, self.in_features)
    }

    /// W of a layer.
    pub fn w(&self, layer: usize) -> Matrix {
        self.input("w", layer, self.dtype, self.in_features, self.layers[layer].out_features)
    }

    /// A, B and s of a layer.
    pub fn adapter(&self, layer: usize) -> AdapterArguments {
        let Layer { out_features, rank } = self.layers[layer];
        AdapterArguments {
            a: self.input("a", layer, self.adapter_dtype_of(layer), self.in_features, rank),
            b: self.input("b", layer, self.adapter_dtype_of(layer), rank, out_features),
            scale: self.scale,
        }
    }

    /// The first layer without its adapter.
    pub fn frozen(&self, mode: WriteMode) -> FrozenArguments {
        let out_features = self.layers[0].out_features;
        FrozenArguments {
            x: self.x(),
            w: self.w(0),
            bias: self.bias.map(|dtype| self.input("bias", 0, dtype, 1, out_features)),
            y: self.output("y", self.rows, out_features, mode),
        }
    }

    /// Its gradient.
    pub fn frozen_backward(&self, mode: WriteMode) -> FrozenBackwardArguments {
        FrozenBackwardArguments {
            dy: self.input("dy", 0, self.dtype, self.rows, self.layers[0].out_features),
            w: self.w(0),
            dx: self.output("dx", self.rows, self.in_features, mode),
        }
    }

    fn output(&self, name: &str, rows: usize, cols: usize, mode: WriteMode) -> Gradient {
        let matrix = match mode {
            WriteMode::Overwrite => self.unwritten(name, self.dtype, rows, cols),
            WriteMode::Accumulate => self.input(name, 0, self.dtype, rows, cols),
        };
        Gradient { matrix, mode }
    }

    /// The forward with outputs that nobody has written.
    pub fn forward(&self) -> ForwardArguments {
        let projections = self.layers.iter().enumerate().map(|(index, layer)| ForwardLayer {
            w: self.w(index),
            adapter: self.adapter(index),
            bias: self.bias.map(|dtype| self.input("bias", index, dtype, 1, layer.out_features)),
            y: self.unwritten("y", self.dtype, self.rows, layer.out_features),
            s: self.save_s.then(|| self.unwritten("s", self.dtype, self.rows, layer.rank)),
        });
        ForwardArguments {
            x: self.x(),
            dropout: self.dropout,
            projections: projections.collect(),
            place: self.place,
        }
    }

    /// The backward with all gradients asked for. S, if given, holds values of its own: the backward must take them
    /// as they are.
    pub fn backward(&self, mode: WriteMode) -> BackwardArguments {
        let gradient = |name: &str, layer: usize, dtype: DType, rows: usize, cols: usize| {
            let matrix = match mode {
                WriteMode::Overwrite => self.unwritten(name, dtype, rows, cols),
                WriteMode::Accumulate => self.input(name, layer, dtype, rows, cols),
            };
            Some(Gradient { matrix, mode })
        };
        let projections =
            self.layers.iter().enumerate().map(|(index, &Layer { out_features, rank })| BackwardLayer {
                w: self.w(index),
                adapter: self.adapter(index),
                dy: self.input("dy", index, self.dtype, self.rows, out_features),
                s: self.save_s.then(|| self.input("s", index, self.dtype, self.rows, rank)),
                da: gradient("da", index, self.adapter_dtype_of(index), self.in_features, rank),
                db: gradient("db", index, self.adapter_dtype_of(index), rank, out_features),
                dbias: self.bias.and_then(|dtype| gradient("dbias", index, dtype, 1, out_features)),
            });
        BackwardArguments {
            x: Some(self.x()),
            dropout: self.dropout,
            dx: gradient("dx", 0, self.dtype, self.rows, self.in_features),
            projections: projections.collect(),
            place: self.place,
        }
    }
}
