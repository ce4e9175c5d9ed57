//! The table of docs/performance.md that is counted from plans and modelled, with no GPU: what a layer takes beside the frozen one, on
//! today's routes. `LORA_KERNELS_UPDATE=1 cargo test --test modelled` writes it.

use lora_kernels::cuda::plan::model::{Card, Counts, H100, H200, seconds};
use lora_kernels::cuda::plan::{Settings, backward::backward, forward::forward, frozen::frozen};
use lora_kernels::cuda::step::{F32Math, Step};
use lora_kernels::cuda::target::Target;
use lora_kernels::memory::{Raw, RawBuffer};
use lora_kernels::ops::{BackwardProjection, BackwardSiblings, ForwardSiblings, Frozen, Output, Projection};
use lora_kernels::{Adapter, DType, Dropout, Layout, MatrixMut, MatrixRef};
use std::path::Path;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const BEGIN: &str = "<!-- modelled by tests/modelled.rs: begin -->\n";
const END: &str = "<!-- modelled by tests/modelled.rs: end -->\n";

const DTYPE: DType = DType::Bf16;
const RANK: usize = 16;
const SETTINGS: Settings = Settings {
    target: Target { compute_capability: (9, 0), shared_bytes_per_block: 227 << 10 },
    f32_math: F32Math::Exact,
};

/// Where W, A, B, X and S are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Apart,
    Padded,
    BesideX,
}

/// Layers that share X, M tokens.
struct Case {
    name: &'static str,
    m: usize,
    k: usize,
    n: &'static [usize],
    is_step: bool,
}

const CASES: [Case; 6] = [
    Case { name: "forward 8192 × 4096²", m: 8192, k: 4096, n: &[4096], is_step: false },
    Case { name: "step 8192 × 4096²", m: 8192, k: 4096, n: &[4096], is_step: true },
    Case { name: "step 8192 × 8192²", m: 8192, k: 8192, n: &[8192], is_step: true },
    Case {
        name: "step, q/k/v of Llama-3-8B at 8192",
        m: 8192,
        k: 4096,
        n: &[4096, 1024, 1024],
        is_step: true,
    },
    Case { name: "step 2048 × 4096²", m: 2048, k: 4096, n: &[4096], is_step: true },
    Case { name: "forward 16 × 4096²", m: 16, k: 4096, n: &[4096], is_step: false },
];

/// Matrices one after the other.
struct Places(u64);

impl Places {
    fn buffer(&mut self, layout: Layout) -> RawBuffer {
        self.0 += 1 << 36;
        RawBuffer { address: self.0, len: layout.span(), dtype: DTYPE }
    }

    fn read(&mut self, rows: usize, cols: usize) -> MatrixRef<'static, Raw> {
        let layout = Layout::packed(rows, cols).expect("it fits memory");
        MatrixRef::from_buffer(self.buffer(layout), layout).expect("it fits")
    }

    fn write(&mut self, rows: usize, cols: usize) -> MatrixMut<'static, Raw> {
        let layout = Layout::packed(rows, cols).expect("it fits memory");
        MatrixMut::from_buffer(self.buffer(layout), layout).expect("it fits")
    }

    /// W, A and B as PEFT has them: [out, in], [r, in] and [out, r], or in one buffer.
    fn weight(
        &mut self,
        k: usize,
        n: usize,
        place: Place,
    ) -> (MatrixRef<'static, Raw>, Adapter<'static, Raw>) {
        if place == Place::Apart {
            let w = self.read(n, k).t();
            return (w, Adapter { a: self.read(RANK, k).t(), b: self.read(n, RANK).t(), scale: 2.0 });
        }
        let layout = Layout::strided(n + RANK, k + RANK, k + 64).expect("it fits memory").t();
        let whole = MatrixRef::<Raw>::from_buffer(self.buffer(layout), layout).expect("it fits");
        let [top, bottom] = whole.t().split_cols(k).expect("k rows").map(MatrixRef::t);
        let ([w, a], [b, _]) = (top.split_cols(n).expect("n"), bottom.split_cols(n).expect("n"));
        (w, Adapter { a, b, scale: 2.0 })
    }
}

/// Steps of the layers, and of the frozen layers alone.
fn steps(case: &Case, place: Place, probability: f32) -> [Vec<Step>; 2] {
    let Case { m, k, n, is_step, .. } = *case;
    let mut places = Places(0);
    let dropout = (probability > 0.0).then(|| Dropout::new(probability, 1, 2).expect("a probability"));
    let room = if place == Place::BesideX { RANK } else { 0 };
    let layout = Layout::packed(m, k + room).expect("it fits memory");
    let input = places.buffer(layout);
    let [x, beside_x] =
        MatrixRef::<Raw>::from_buffer(input, layout).expect("it fits").split_cols(k).expect("k");
    let mut room_for_s = (room > 0).then(|| {
        let whole = MatrixMut::<Raw>::from_buffer(input, layout).expect("it fits");
        let [_, s] = whole.split_cols(k).expect("k");
        (s, beside_x)
    });
    let weights: Vec<_> = n.iter().map(|&n| (n, places.weight(k, n, place))).collect();
    let mut projections = Vec::new();
    let mut saved = Vec::new();
    let mut alone = Vec::new();
    for &(n, (w, adapter)) in &weights {
        let (s, read_again) = room_for_s.take().unwrap_or_else(|| {
            let layout = Layout::packed(m, RANK).expect("it fits memory");
            let buffer = places.buffer(layout);
            let write = MatrixMut::from_buffer(buffer, layout).expect("it fits");
            (write, MatrixRef::from_buffer(buffer, layout).expect("it fits"))
        });
        saved.push(read_again);
        projections.push(Projection { w, adapter, bias: None, y: places.write(m, n), s: Some(s) });
        let y = Output::overwrite(places.write(m, n));
        alone.extend(frozen(&Frozen { x, w, bias: None, y }, SETTINGS, 0).expect("it fits").steps);
    }
    let op = ForwardSiblings { x, dropout, projections };
    let mut all = forward(&op, SETTINGS, 0).expect("it fits").steps;
    if is_step {
        let mut projections = Vec::new();
        for (index, (&(n, (w, adapter)), s)) in weights.iter().zip(saved).enumerate() {
            let dy = places.read(m, n);
            projections.push(BackwardProjection {
                w,
                adapter,
                dy,
                s: Some(s),
                da: Some(Output::overwrite(places.write(k, RANK))),
                db: Some(Output::overwrite(places.write(RANK, n))),
                dbias: None,
            });
            let dx = places.write(m, k);
            let dx = if index == 0 { Output::overwrite(dx) } else { Output::accumulate(dx) };
            let op = Frozen { x: dy, w: w.t(), bias: None, y: dx };
            alone.extend(frozen(&op, SETTINGS, 0).expect("it fits").steps);
        }
        let dx = Some(Output::overwrite(places.write(m, k)));
        let op = BackwardSiblings { x: Some(x), dropout, dx, projections };
        all.extend(backward(&op, SETTINGS, 0).expect("it fits").steps);
    }
    [all, alone]
}

/// Modelled time to that of the frozen layer; launches and megabytes beyond those of the frozen layer.
fn cell(case: &Case, place: Place, probability: f32, card: &Card) -> (f64, u64, f64) {
    let [all, alone] = steps(case, place, probability);
    let [ours, frozen] = [&all, &alone].map(|steps| Counts::of(steps, DTYPE));
    let ratio = seconds(&all, DTYPE, card) / seconds(&alone, DTYPE, card);
    (ratio, ours.launches - frozen.launches, (ours.bytes as f64 - frozen.bytes as f64) / 1e6)
}

fn table() -> String {
    let mut table = String::from(
        "| bf16, r = 16 | p | apart | padded weight | and S beside X |\n|---|---|---|---|---|\n",
    );
    for case in &CASES {
        for probability in [0.0, 0.1] {
            table += &format!("| {} | {probability} |", case.name);
            for place in [Place::Apart, Place::Padded, Place::BesideX] {
                let (h100, launches, megabytes) = cell(case, place, probability, &H100);
                let (h200, ..) = cell(case, place, probability, &H200);
                table += &format!(" **{h100:.2}** / {h200:.2}; {launches}; {megabytes:.0} |");
            }
            table.push('\n');
        }
    }
    table
}

#[test]
fn the_table_is_the_models() {
    let document = std::fs::read_to_string(DOCUMENT).expect("it is there");
    let begin = document.find(BEGIN).expect("the table has a place") + BEGIN.len();
    let end = document.find(END).expect("the table has an end");
    let expected = format!("\n{}\n", table());
    if std::env::var("LORA_KERNELS_UPDATE").is_ok_and(|value| value == "1") {
        let updated = [&document[..begin], &expected, &document[end..]].concat();
        std::fs::write(Path::new(DOCUMENT), updated).expect("it can be written");
    } else {
        assert_eq!(&document[begin..end], expected, "LORA_KERNELS_UPDATE=1 cargo test --test modelled");
    }
}

/// What is on by default is better by every count, whatever the model makes of it.
#[test]
fn a_padded_weight_never_costs_more() {
    for case in &CASES {
        for probability in [0.0, 0.1] {
            let counts = |place| Counts::of(&steps(case, place, probability)[0], DTYPE);
            let apart = counts(Place::Apart);
            for place in [Place::Padded, Place::BesideX] {
                let found = counts(place);
                assert!(found == apart || found.is_better_than(&apart), "{}: {found:?} {apart:?}", case.name);
            }
            assert!(counts(Place::BesideX).is_better_than(&apart), "{}", case.name);
        }
    }
}
