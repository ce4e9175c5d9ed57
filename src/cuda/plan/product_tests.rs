//! What forward and backward plans look like, with no device.

use super::backward::backward;
use super::forward::forward;
use super::{Plan, Settings};
use crate::cuda::arguments::products::{
    BackwardAArguments, BackwardDyArguments, ExpandArguments, FinalizeArguments, PackArguments,
    ShrinkArguments,
};
use crate::cuda::step::{F32Math, Launch, Product, Step};
use crate::cuda::target::Target;
use crate::memory::{Raw, RawBuffer};
use crate::ops::{BackwardProjection, BackwardSiblings, ForwardSiblings, Output, Projection};
use crate::{Adapter, DType, Dropout, Layout, MatrixMut, MatrixRef};

const X: u64 = 0x1000_0000;
const W: u64 = 0x2000_0000;
const A: u64 = 0x3000_0000;
const B: u64 = 0x4000_0000;
const Y: u64 = 0x5000_0000;
const S: u64 = 0x6000_0000;
const BIAS: u64 = 0x7000_0000;
const WORKSPACE: u64 = 0x10_0000_0000;

/// The cards with the least shared memory for a block: compute capability 8.6, 8.9 and 12.0.
const SMALLEST: Target = Target { compute_capability: (8, 6), shared_bytes_per_block: 99 << 10 };
const EXACT: Settings = Settings { target: SMALLEST, f32_math: F32Math::Exact };

fn buffer(address: u64, layout: Layout, dtype: DType) -> RawBuffer {
    RawBuffer { address, len: layout.span(), dtype }
}

fn read(address: u64, rows: usize, cols: usize, dtype: DType) -> MatrixRef<'static, Raw> {
    let layout = Layout::packed(rows, cols).expect("small");
    MatrixRef::from_buffer(buffer(address, layout, dtype), layout).unwrap()
}

fn write(address: u64, rows: usize, cols: usize, dtype: DType) -> MatrixMut<'static, Raw> {
    let layout = Layout::packed(rows, cols).expect("small");
    MatrixMut::from_buffer(buffer(address, layout, dtype), layout).unwrap()
}

#[derive(Clone, Copy)]
struct Layer {
    m: usize,
    k: usize,
    n: usize,
    rank: usize,
    dtype: DType,
}

const LAYER: Layer = Layer { m: 200, k: 256, n: 192, rank: 8, dtype: DType::Bf16 };

impl Layer {
    /// A stored \[r, in\] and B stored \[r, out\]: as the kernels take them.
    fn adapter(self, dtype: DType) -> Adapter<'static, Raw> {
        Adapter { a: read(A, self.rank, self.k, dtype).t(), b: read(B, self.rank, self.n, dtype), scale: 2.0 }
    }

    fn forward(self, projections: usize, adapter: Adapter<'static, Raw>) -> ForwardSiblings<'static, Raw> {
        ForwardSiblings {
            x: read(X, self.m, self.k, self.dtype),
            dropout: None,
            projections: (0..projections)
                .map(|_| Projection {
                    w: read(W, self.k, self.n, self.dtype),
                    adapter,
                    bias: Some(read(BIAS, 1, self.n, DType::F32)),
                    y: write(Y, self.m, self.n, self.dtype),
                    s: None,
                })
                .collect(),
        }
    }

    fn backward(self, projections: usize) -> BackwardSiblings<'static, Raw> {
        let adapter = self.adapter(self.dtype);
        BackwardSiblings {
            x: Some(read(X, self.m, self.k, self.dtype)),
            dropout: Some(Dropout::new(0.5, 1, 2).unwrap()),
            dx: Some(Output::overwrite(write(X + 0x800_0000, self.m, self.k, self.dtype))),
            projections: (0..projections)
                .map(|_| BackwardProjection {
                    w: read(W, self.k, self.n, self.dtype),
                    adapter,
                    dy: read(Y, self.m, self.n, self.dtype),
                    s: Some(read(S, self.m, self.rank, self.dtype)),
                    da: Some(Output::overwrite(write(A + 0x800_0000, self.rank, self.k, self.dtype).t())),
                    db: Some(Output::accumulate(write(B + 0x800_0000, self.rank, self.n, self.dtype))),
                    dbias: Some(Output::overwrite(write(BIAS + 0x800_0000, 1, self.n, DType::F32))),
                })
                .collect(),
        }
    }
}

fn plan_forward(op: &ForwardSiblings<'_, Raw>) -> Plan {
    op.check().unwrap();
    forward(op, EXACT, WORKSPACE).unwrap()
}

fn plan_backward(op: &BackwardSiblings<'_, Raw>) -> Plan {
    op.check().unwrap();
    backward(op, EXACT, WORKSPACE).unwrap()
}

/// Names of the kernels; "product" for the library's.
fn names(plan: &Plan) -> Vec<&str> {
    plan.steps
        .iter()
        .map(|step| match step {
            Step::Launch(launch) => launch.kernel.symbol(),
            Step::Product(_) => "product",
            Step::Zero(_) => "zero",
        })
        .collect()
}

fn launches<'a>(plan: &'a Plan, prefix: &str) -> Vec<&'a Launch> {
    let launch = |step: &'a Step| match step {
        Step::Launch(launch) if launch.kernel.symbol().starts_with(prefix) => Some(launch),
        _ => None,
    };
    plan.steps.iter().filter_map(launch).collect()
}

fn arguments<T: bytemuck::Pod>(launch: &Launch) -> T {
    bytemuck::pod_read_unaligned(&launch.arguments)
}

#[test]
fn forward_reads_x_once_and_writes_y_once_beside_the_frozen_product() {
    let plan = plan_forward(&LAYER.forward(1, LAYER.adapter(LAYER.dtype)));
    assert_eq!(names(&plan), ["shrink_bf16_rank16", "finalize", "expand_bf16_rank16", "product"]);
    let Some(Step::Product(product)) = plan.steps.last() else { panic!("the product comes last") };
    assert!(product.accumulate, "the product adds to what expand wrote");
    assert_eq!((product.a.address, product.b.address, product.c.address), (X, W, Y));
}

/// W, A and B as parts of one matrix, stored [out, in] or [in, out].
fn joined_weight(
    layer: Layer,
    address: u64,
    transposed: bool,
) -> (MatrixRef<'static, Raw>, Adapter<'static, Raw>) {
    let Layer { k, n, rank, dtype, .. } = layer;
    let whole = match transposed {
        true => read(address, n + rank, k + rank, dtype).t(),
        false => read(address, k + rank, n + rank, dtype),
    };
    let [top, bottom] = whole.t().split_cols(k).unwrap().map(MatrixRef::t);
    let [w, a] = top.split_cols(n).unwrap();
    let [b, _] = bottom.split_cols(n).unwrap();
    (w, Adapter { a, b, scale: 2.0 })
}

fn products(plan: &Plan) -> Vec<&Product> {
    let steps = plan.steps.iter();
    steps.filter_map(|step| if let Step::Product(product) = step { Some(product) } else { None }).collect()
}

#[test]
fn a_joined_forward_is_one_product_over_k_plus_r() {
    for transposed in [false, true] {
        let (w, adapter) = joined_weight(LAYER, W, transposed);
        let mut op = LAYER.forward(1, adapter);
        (op.projections[0].w, op.projections[0].bias) = (w, None);
        // S beside X.
        let whole = write(X, LAYER.m, LAYER.k + LAYER.rank, LAYER.dtype);
        let [x, s] = whole.split_cols(LAYER.k).unwrap();
        op.x = MatrixRef::from_buffer(x.as_ref().buffer(), x.layout()).unwrap();
        op.projections[0].s = Some(s);
        let plan = plan_forward(&op);
        let packs = usize::from(!transposed);
        assert_eq!(names(&plan)[packs..], ["shrink_bf16_rank16", "finalize", "product"]);
        let product = products(&plan)[0];
        assert!(!product.accumulate, "nothing was written before");
        assert_eq!((product.a.address, product.a.cols, product.a.stride), (X, 264, 264));
        assert_eq!((product.b.address, product.b.rows, product.b.cols), (W, 264, 192));
        assert_eq!(
            (product.b.transposed, product.b.stride),
            if transposed { (true, 264) } else { (false, 200) }
        );

        // S elsewhere: X is copied, and S goes to both places.
        op.projections[0].s = Some(write(S, LAYER.m, LAYER.rank, LAYER.dtype));
        let plan = plan_forward(&op);
        assert_eq!(names(&plan)[packs..], ["shrink_bf16_rank16", "finalize", "product"]);
        let shrink: ShrinkArguments = arguments(launches(&plan, "shrink")[0]);
        let product = products(&plan)[0];
        assert_eq!((shrink.copy, shrink.copy_stride), (product.a.address, 264));
        let finalize: FinalizeArguments = arguments(launches(&plan, "finalize")[0]);
        let places = finalize.segments[..2].iter().map(|s| (s.address, s.row_stride, s.first_column));
        assert_eq!(places.collect::<Vec<_>>(), [(shrink.copy + 2 * 256, 264, 0), (S, 8, 0)]);
    }
}

/// What makes one count worse stays off: a bias, and a copy of X that is larger than two Y.
#[test]
fn a_forward_stays_apart_where_that_is_not_worse() {
    let (w, adapter) = joined_weight(LAYER, W, true);
    let mut op = LAYER.forward(1, adapter);
    op.projections[0].w = w;
    assert!(names(&plan_forward(&op)).contains(&"expand_bf16_rank16"), "a bias");
    op.projections[0].bias = None;
    assert!(!names(&plan_forward(&op)).contains(&"expand_bf16_rank16"));
    let narrow = Layer { n: 64, ..LAYER };
    let (w, adapter) = joined_weight(narrow, W, true);
    let mut op = narrow.forward(1, adapter);
    (op.projections[0].w, op.projections[0].bias) = (w, None);
    assert!(names(&plan_forward(&op)).contains(&"expand_bf16_rank16"), "256 columns copied for 64 of Y");
    let elsewhere = Adapter { b: read(B, narrow.rank, narrow.n, narrow.dtype), ..adapter };
    op.projections[0].adapter = elsewhere;
    assert!(names(&plan_forward(&op)).contains(&"expand_bf16_rank16"), "B is elsewhere");
}

#[test]
fn siblings_use_the_room_beside_x_one_after_the_other() {
    let mut op = LAYER.forward(3, LAYER.adapter(LAYER.dtype));
    let ranks = [8, 16, 4];
    for (index, (projection, rank)) in op.projections.iter_mut().zip(ranks).enumerate() {
        let layer = Layer { rank, ..LAYER };
        (projection.w, projection.adapter) = joined_weight(layer, W + 0x100_0000 * index as u64, true);
        projection.bias = None;
    }
    let whole = write(X, LAYER.m, LAYER.k + 16, LAYER.dtype);
    let [x, s] = whole.split_cols(LAYER.k).unwrap();
    op.x = MatrixRef::from_buffer(x.as_ref().buffer(), x.layout()).unwrap();
    op.projections[1].s = Some(s);
    let plan = plan_forward(&op);
    // The S that was asked for comes last, and stays.
    let extents: Vec<_> = products(&plan).iter().map(|product| (product.a.address, product.a.cols)).collect();
    assert_eq!(extents, [(X, 264), (X, 260), (X, 272)]);
    let columns: Vec<_> = launches(&plan, "finalize")
        .iter()
        .map(|launch| arguments::<FinalizeArguments>(launch).segments[0])
        .map(|segment| (segment.first_column, segment.columns))
        .collect();
    assert_eq!(columns, [(0, 8), (24, 4), (8, 16)]);
    assert_eq!(launches(&plan, "shrink").len(), 1);
}

#[test]
fn a_joined_backward_is_one_product_over_n_plus_r() {
    for transposed in [false, true] {
        let mut op = LAYER.backward(2);
        op.dropout = None;
        for projection in &mut op.projections {
            (projection.w, projection.adapter) = joined_weight(LAYER, W, transposed);
        }
        let plan = plan_backward(&op);
        assert!(launches(&plan, "expand").is_empty());
        let found = products(&plan);
        assert_eq!(found.iter().map(|product| product.accumulate).collect::<Vec<_>>(), [false, true]);
        for (product, dy) in found.iter().zip(launches(&plan, "backward_dy")) {
            let dy: BackwardDyArguments = arguments(dy);
            assert_eq!((dy.copy, dy.copy_stride), (product.a.address, 200));
            assert_eq!((product.a.cols, product.b.address, product.b.rows), (200, W, 200));
            assert_eq!(product.b.transposed, !transposed);
        }
        let a: BackwardAArguments = arguments(launches(&plan, "backward_a")[0]);
        assert_eq!(a.ds.columns, 16, "dS of both layers, for dA");

        // Without dA, dS is beside dY only.
        op.projections.iter_mut().for_each(|projection| projection.da = None);
        let plan = plan_backward(&op);
        assert!(launches(&plan, "backward_a").is_empty());
        let finalize: FinalizeArguments = arguments(launches(&plan, "finalize")[0]);
        assert_eq!(finalize.segment_count, 1);

        // Dropout masks the adapter's part of dX alone.
        op.dropout = Some(Dropout::new(0.5, 1, 2).unwrap());
        assert_eq!(launches(&plan_backward(&op), "expand").len(), 1);
    }
}

#[test]
fn siblings_share_one_read_of_x() {
    let plan = plan_forward(&LAYER.forward(3, LAYER.adapter(LAYER.dtype)));
    assert_eq!(names(&plan)[..3], ["pack", "shrink_bf16_rank32", "finalize"]);
    assert_eq!(launches(&plan, "expand").len(), 3);
    let shrink: ShrinkArguments = arguments(launches(&plan, "shrink")[0]);
    assert_eq!((shrink.a.rows, shrink.rank_chunks), (24, 1));
}

#[test]
fn adapters_are_packed_only_where_their_layout_or_type_needs_it() {
    // PEFT's B is stored [out, r]: taken as it is where its rows are aligned.
    let peft = |rank| {
        let layer = Layer { rank, ..LAYER };
        Adapter { b: read(B, LAYER.n, rank, DType::Bf16).t(), ..layer.adapter(DType::Bf16) }
    };
    let transposed_a = Adapter { a: read(A, LAYER.k, LAYER.rank, DType::Bf16), ..LAYER.adapter(DType::Bf16) };
    let unaligned =
        Adapter { b: read(B + 2, LAYER.rank, LAYER.n, DType::Bf16), ..LAYER.adapter(DType::Bf16) };
    for (adapter, packs) in [
        (LAYER.adapter(DType::Bf16), 0),
        (peft(8), 0),
        (peft(12), 1),
        (transposed_a, 1),
        (unaligned, 1),
        (LAYER.adapter(DType::F32), 2),
    ] {
        assert_eq!(launches(&plan_forward(&LAYER.forward(1, adapter)), "pack").len(), packs);
    }
}

#[test]
fn more_than_eight_siblings_take_more_launches_of_pack_and_finalize() {
    let plan = plan_forward(&LAYER.forward(9, LAYER.adapter(LAYER.dtype)));
    let segments: Vec<u32> =
        launches(&plan, "pack").iter().map(|l| arguments::<PackArguments>(l).segment_count).collect();
    assert_eq!(segments, [8, 1]);
    let finalize: Vec<FinalizeArguments> = launches(&plan, "finalize").iter().map(|l| arguments(l)).collect();
    assert_eq!(finalize.iter().map(|f| f.segment_count).collect::<Vec<_>>(), [8, 1]);
    assert_eq!(finalize[1].segments[0].first_column, 64);
    let shrink: ShrinkArguments = arguments(launches(&plan, "shrink")[0]);
    assert_eq!((shrink.rank_chunks, shrink.slab_columns), (2, 128));
}

#[test]
fn ranks_choose_the_kernel_and_the_passes() {
    for (rank, kernel, passes) in [
        (1, "shrink_f32_rank16", 1),
        (16, "shrink_f32_rank16", 1),
        (17, "shrink_f32_rank32", 1),
        (33, "shrink_f32_rank64", 1),
        (65, "shrink_f32_rank64", 2),
        (512, "shrink_f32_rank64", 8),
    ] {
        let layer = Layer { rank, dtype: DType::F32, ..LAYER };
        let plan = plan_forward(&layer.forward(1, layer.adapter(DType::F32)));
        let launch = launches(&plan, "shrink")[0];
        assert_eq!(launch.kernel.symbol(), kernel);
        assert_eq!(arguments::<ShrinkArguments>(launch).rank_chunks, passes);
    }
    let layer = Layer { dtype: DType::F32, ..LAYER };
    let op = layer.forward(1, layer.adapter(DType::F32));
    let plan = forward(&op, Settings { f32_math: F32Math::Tf32, ..EXACT }, WORKSPACE).unwrap();
    assert_eq!(names(&plan)[0], "shrink_tf32_rank16");
}

#[test]
fn few_rows_are_split_along_the_features() {
    let splits = |m, k| {
        let layer = Layer { m, k, ..LAYER };
        let plan = plan_forward(&layer.forward(1, layer.adapter(layer.dtype)));
        let launch = launches(&plan, "shrink")[0];
        let split = arguments::<ShrinkArguments>(launch).split;
        assert_eq!(launch.grid, [m.div_ceil(64) as u32 * split.blocks, 1, 1]);
        assert!((split.blocks * split.tiles) as usize * 64 >= k, "all of K is covered");
        assert!(((split.blocks - 1) * split.tiles) as usize * 64 < k, "no range is empty");
        split.blocks
    };
    assert_eq!(splits(1, 4096), 32);
    assert_eq!(splits(8192, 4096), 4);
    assert_eq!(splits(1 << 20, 4096), 1);
    assert_eq!(splits(1, 1), 1);
}

#[test]
fn backward_reads_dy_once_x_once_and_writes_dx_once() {
    let plan = plan_backward(&LAYER.backward(1));
    assert_eq!(
        names(&plan),
        [
            "backward_dy_bf16_rank16",
            "finalize",
            "finalize",
            "finalize",
            "backward_a_bf16_rank16",
            "finalize",
            "expand_bf16_rank16",
            "product"
        ]
    );
    let dy: BackwardDyArguments = arguments(launches(&plan, "backward_dy")[0]);
    assert!(dy.ds_slabs != 0 && dy.db_slabs != 0 && dy.dbias_slabs != 0);
    let expand: ExpandArguments = arguments(launches(&plan, "expand")[0]);
    assert_eq!((expand.scale, expand.accumulate, expand.mask.threshold), (2.0, 0, 32768));
    // dS, dB, dbias, dA: only dB accumulates, only dA is scaled for the dropout here.
    let finalize: Vec<_> = launches(&plan, "finalize")
        .iter()
        .map(|l| arguments::<FinalizeArguments>(l).segments[0])
        .map(|s| (s.accumulate, s.scale))
        .collect();
    assert_eq!(finalize, [(0, 2.0), (1, 1.0), (0, 1.0), (0, 2.0)]);
}

#[test]
fn sibling_gradients_share_one_read_of_x_and_one_write_of_dx() {
    let plan = plan_backward(&LAYER.backward(3));
    assert_eq!(launches(&plan, "backward_dy").len(), 3);
    let a: BackwardAArguments = arguments(launches(&plan, "backward_a")[0]);
    assert_eq!((launches(&plan, "backward_a").len(), a.ds.columns), (1, 24));
    let expand: ExpandArguments = arguments(launches(&plan, "expand")[0]);
    assert_eq!((launches(&plan, "expand").len(), expand.s.columns, expand.b.rows), (1, 24, 24));
    assert_eq!(names(&plan).iter().filter(|name| **name == "product").count(), 3);
}

#[test]
fn only_what_is_asked_for_is_computed() {
    let mut op = LAYER.backward(1);
    op.dx = None;
    op.projections[0].da = None;
    op.projections[0].dbias = None;
    let plan = plan_backward(&op);
    assert_eq!(names(&plan), ["backward_dy_bf16_rank16", "finalize"]);
    let dy: BackwardDyArguments = arguments(launches(&plan, "backward_dy")[0]);
    assert_eq!((dy.ds_slabs, dy.dbias_slabs), (0, 0));

    op.projections[0].db = None;
    assert!(plan_backward(&op).steps.is_empty());
}

#[test]
fn s_is_recomputed_where_it_is_missing() {
    let mut op = LAYER.backward(2);
    op.dx = None;
    op.projections[1].s = None;
    let plan = plan_backward(&op);
    assert_eq!(names(&plan)[..2], ["shrink_bf16_rank16", "finalize"]);
    let shrink: ShrinkArguments = arguments(launches(&plan, "shrink")[0]);
    assert_eq!(shrink.a.rows, 8, "the other layer's S is given");
    let finalize: FinalizeArguments = arguments(launches(&plan, "finalize")[0]);
    assert_eq!(finalize.segments[0].scale, 4.0, "s and the dropout's 1/(1-p)");
}

#[test]
fn no_tokens_means_no_forward_and_zero_gradients() {
    let empty = Layer { m: 0, ..LAYER };
    assert_eq!(plan_forward(&empty.forward(2, empty.adapter(empty.dtype))), Plan::default());
    let plan = plan_backward(&empty.backward(1));
    // dA and dbias are overwritten; dB accumulates and stays as it is.
    assert_eq!(names(&plan), ["finalize", "finalize"]);
    for launch in launches(&plan, "finalize") {
        assert_eq!(arguments::<FinalizeArguments>(launch).slab_count, 0);
    }
}

#[test]
fn no_layers_make_dx_zero() {
    let mut op = LAYER.backward(1);
    op.projections.clear();
    let plan = plan_backward(&op);
    assert_eq!(names(&plan), ["expand_bf16_rank16"]);
    assert_eq!(arguments::<ExpandArguments>(launches(&plan, "expand")[0]).s.columns, 0);
}

#[test]
fn shared_memory_fits_every_card_and_no_less() {
    let mut most = 0;
    for dtype in [DType::F32, DType::F16] {
        for rank in [16, 32, 64, 512] {
            let layer = Layer { rank, dtype, ..LAYER };
            let forward = plan_forward(&layer.forward(1, layer.adapter(dtype)));
            for plan in [forward, plan_backward(&layer.backward(1))] {
                most = launches(&plan, "").iter().map(|launch| launch.shared_bytes).fold(most, u32::max);
            }
        }
    }
    assert_eq!(most, SMALLEST.shared_bytes_per_block, "f32 at rank 64 uses all of it");

    let layer = Layer { rank: 64, dtype: DType::F32, ..LAYER };
    let target = Target { shared_bytes_per_block: most - 1, ..SMALLEST };
    let error = backward(&layer.backward(1), Settings { target, ..EXACT }, WORKSPACE).unwrap_err();
    assert!(error.to_string().contains("backward_dy_f32_rank64"), "{error}");
}

#[test]
fn a_plan_is_the_same_wherever_its_workspace_is() {
    let op = LAYER.backward(3);
    let there = plan_backward(&op);
    let here = backward(&op, EXACT, 0).unwrap();
    assert_eq!(here.workspace_bytes, there.workspace_bytes);
    assert_eq!(names(&here), names(&there));
    let address = |plan: &Plan| arguments::<BackwardDyArguments>(launches(plan, "backward_dy")[2]).db_slabs;
    assert_eq!(address(&there) - address(&here), WORKSPACE);
    assert!(address(&here) + 4 <= here.workspace_bytes as u64);
}

#[test]
fn a_grid_too_large_for_cuda_is_an_error() {
    let layer = Layer { m: 1 << 36, k: 1, n: 1 << 12, ..LAYER };
    let op = layer.forward(1, layer.adapter(layer.dtype));
    let error = forward(&op, EXACT, 0).unwrap_err();
    assert!(error.to_string().contains("thread blocks"), "{error}");
}
