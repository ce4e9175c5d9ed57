//! A restore record gives the old weights back, bit for bit, and refuses what it was not made for.

mod weights_support;

use half::{bf16, f16};
use lora_kernels::cpu::Cpu;
use lora_kernels::ops::WeightUpdate;
use lora_kernels::restore::{Escape, RestoreMethod, RestoreRecord};
use lora_kernels::{Backend, Element, Error, MatrixMut, Rounding};
use weights_support::{Factors, Random, Stored, all_bits, bits, from_bits};

/// A thousand random switches, with every so often an unmerge and a merge between.
fn many_switches<T: Element, A: Element>(method: RestoreMethod, seed: u64) {
    let (rows, cols) = (67, 93);
    let mut random = Random(seed);
    let base: Vec<T> = random.matrix(rows * cols, 0.02);
    let adapters: Vec<Factors<A>> = [(1, 1e-4), (5, 1e-3), (16, 5e-3), (33, 0.05)]
        .map(|(rank, deviation)| Factors::random(&mut random, rows, cols, rank, deviation))
        .into();
    let mut cpu = Cpu::new();
    let mut record = RestoreRecord::new(method);
    let mut w = base.clone();
    let mut active: Option<usize> = None;
    for switch in 0..1000 {
        let next = if random.below(20) == 0 { None } else { Some(random.below(adapters.len())) };
        let rounding = match switch % 5 {
            0 if T::DTYPE.size() == 2 => Rounding::Stochastic { seed: random.next() },
            _ => Rounding::Nearest,
        };
        cpu.update_weights(WeightUpdate {
            w: MatrixMut::new(&mut w, rows, cols).unwrap(),
            remove: active.map(|n| adapters[n].adapter()),
            add: next.map(|n| adapters[n].adapter()),
            rounding,
            record: Some(&mut record),
            report: false,
        })
        .unwrap();
        active = next;
        match active {
            None => assert!(all_bits(&w) == all_bits(&base), "switch {switch}"),
            Some(n) if rounding == Rounding::Nearest => {
                // No drift: the weights are those of a fresh merge.
                let mut fresh = base.clone();
                let fresh_w = MatrixMut::new(&mut fresh, rows, cols).unwrap();
                cpu.update_weights(WeightUpdate::merge(fresh_w, adapters[n].adapter())).unwrap();
                assert!(all_bits(&w) == all_bits(&fresh), "switch {switch}");
            }
            Some(_) => {}
        }
    }
    if let Some(n) = active {
        let w = MatrixMut::new(&mut w, rows, cols).unwrap();
        cpu.update_weights(WeightUpdate::unmerge(w, adapters[n].adapter()).record(&mut record)).unwrap();
    }
    assert!(all_bits(&w) == all_bits(&base));
    assert!(record.recorded().is_none());
}

#[test]
fn a_thousand_switches_leave_a_bf16_base_as_it_was() {
    many_switches::<bf16, bf16>(RestoreMethod::Codes, 1);
    many_switches::<bf16, f32>(RestoreMethod::Codes, 2);
}

#[test]
fn a_thousand_switches_leave_an_f16_base_as_it_was() {
    many_switches::<f16, f16>(RestoreMethod::Codes, 3);
    many_switches::<f16, f32>(RestoreMethod::Codes, 4);
}

#[test]
fn a_thousand_switches_leave_an_f32_base_as_it_was() {
    many_switches::<f32, f32>(RestoreMethod::Codes, 5);
    many_switches::<f32, f32>(RestoreMethod::Backup, 6);
}

#[test]
fn a_thousand_switches_with_a_backup() {
    many_switches::<bf16, f32>(RestoreMethod::Backup, 7);
    many_switches::<f16, f16>(RestoreMethod::Backup, 8);
}

/// Weights that a code cannot describe: not finite, zero, subnormal, far below their Δ.
fn awkward_weights<T: Element>() -> Vec<T> {
    let infinity = bits(T::from_f32(f32::INFINITY));
    let sign = bits(T::from_f32(-0.0));
    let mut patterns = vec![0, 1, 2, 3, 0x7F, infinity - 1, infinity, infinity + 1, 2 * infinity - 1];
    patterns.extend([bits(T::from_f32(1.0)), bits(T::from_f32(1e-7)), bits(T::from_f32(6e-5))]);
    patterns.iter().flat_map(|&pattern| [pattern & !sign, pattern | sign]).map(from_bits).collect()
}

fn awkward_weights_come_back<T: Element>(method: RestoreMethod, transposed: bool) {
    let patterns = awkward_weights::<T>();
    let (rows, cols) = (2 * patterns.len() + 1, 70);
    let values: Vec<T> = (0..rows * cols).map(|n| patterns[(n / 3) % patterns.len()]).collect();
    for deviation in [0.0, 1e-6, 1e-2, 1e4, 1e10] {
        let mut random = Random(9);
        let first = Factors::<f32>::random(&mut random, rows, cols, 3, deviation);
        let second = Factors::<f32>::random(&mut random, rows, cols, 2, deviation / 3.0);
        let mut w = Stored::new(&values, rows, cols, transposed, 5);
        let mut record = RestoreRecord::new(method);
        let mut cpu = Cpu::new();
        cpu.update_weights(WeightUpdate::merge(w.view_mut(), first.adapter()).record(&mut record)).unwrap();
        if method == RestoreMethod::Codes {
            assert!(
                record.escapes().len() >= 8 * rows * cols / patterns.len() / 2,
                "non-finite weights escape"
            );
            assert!(record.escapes().is_sorted_by_key(|escape| escape.index));
        }
        let switch = WeightUpdate::switch(w.view_mut(), first.adapter(), second.adapter());
        cpu.update_weights(switch.record(&mut record)).unwrap();
        let unmerge = WeightUpdate::unmerge(w.view_mut(), second.adapter());
        cpu.update_weights(unmerge.record(&mut record)).unwrap();
        assert!(all_bits(&w.values()) == all_bits(&values), "Δ of {deviation}");
    }
}

#[test]
fn weights_beyond_the_reach_of_codes_come_back() {
    for transposed in [false, true] {
        for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
            awkward_weights_come_back::<bf16>(method, transposed);
            awkward_weights_come_back::<f16>(method, transposed);
            awkward_weights_come_back::<f32>(method, transposed);
        }
    }
}

#[test]
fn records_stack() {
    let (rows, cols) = (30, 140);
    let mut random = Random(10);
    let base: Vec<bf16> = random.matrix(rows * cols, 0.02);
    let adapters: Vec<Factors<bf16>> =
        (1..5).map(|rank| Factors::random(&mut random, rows, cols, rank, 1e-2)).collect();
    let mut records: Vec<RestoreRecord> = (1..5).map(|_| RestoreRecord::new(RestoreMethod::Codes)).collect();
    let mut cpu = Cpu::new();
    let mut w = base.clone();
    let mut stages = vec![];
    for (adapter, record) in adapters.iter().zip(&mut records) {
        stages.push(all_bits(&w));
        let w = MatrixMut::new(&mut w, rows, cols).unwrap();
        cpu.update_weights(WeightUpdate::merge(w, adapter.adapter()).record(record)).unwrap();
    }
    for (adapter, record) in adapters.iter().zip(&mut records).rev() {
        let view = MatrixMut::new(&mut w, rows, cols).unwrap();
        cpu.update_weights(WeightUpdate::unmerge(view, adapter.adapter()).record(record)).unwrap();
        assert_eq!(Some(all_bits(&w)), stages.pop());
    }
    assert!(all_bits(&w) == all_bits(&base));
}

/// Without a record rounding has lost bits; that is why there are records.
#[test]
fn unmerging_without_a_record_is_close_but_not_exact() {
    let (rows, cols) = (64, 64);
    let mut random = Random(11);
    let base: Vec<bf16> = random.matrix(rows * cols, 0.02);
    let adapter = Factors::<bf16>::random(&mut random, rows, cols, 8, 5e-3);
    let mut cpu = Cpu::new();
    let mut w = base.clone();
    cpu.update_weights(WeightUpdate::merge(MatrixMut::new(&mut w, rows, cols).unwrap(), adapter.adapter()))
        .unwrap();
    cpu.update_weights(WeightUpdate::unmerge(MatrixMut::new(&mut w, rows, cols).unwrap(), adapter.adapter()))
        .unwrap();
    let changed = w.iter().zip(&base).filter(|(new, old)| new != old).count();
    assert!(changed > rows * cols / 20, "{changed}");
    assert!(changed < rows * cols / 2, "{changed}");
}

struct Merged {
    w: Vec<bf16>,
    adapter: Factors<bf16>,
    record: RestoreRecord,
}

const ROWS: usize = 20;
const COLS: usize = 24;

fn merged() -> Merged {
    let mut random = Random(12);
    let mut w: Vec<bf16> = random.matrix(ROWS * COLS, 0.02);
    w[5] = bf16::INFINITY;
    let adapter = Factors::random(&mut random, ROWS, COLS, 4, 1e-2);
    let mut record = RestoreRecord::new(RestoreMethod::Codes);
    let view = MatrixMut::new(&mut w, ROWS, COLS).unwrap();
    Cpu::new().update_weights(WeightUpdate::merge(view, adapter.adapter()).record(&mut record)).unwrap();
    Merged { w, adapter, record }
}

/// The unmerge must be refused as a mismatch, and nothing written.
#[track_caller]
fn refused(w: &mut [bf16], rows: usize, adapter: &Factors<bf16>, record: &mut RestoreRecord) -> String {
    let (weights_before, record_before) = (all_bits(w), record.clone());
    let view = MatrixMut::new(w, rows, COLS).unwrap();
    let error = Cpu::new()
        .update_weights(WeightUpdate::unmerge(view, adapter.adapter()).record(record))
        .expect_err("the record does not fit");
    assert!(matches!(error, Error::RecordMismatch(_)), "{error}");
    assert_eq!(all_bits(w), weights_before);
    assert_eq!(record.recorded(), record_before.recorded());
    assert_eq!(record.codes(), record_before.codes());
    assert_eq!(record.escapes(), record_before.escapes());
    error.to_string()
}

#[test]
fn a_record_of_something_else_is_refused() {
    let mut fits = merged();
    let other = Factors::random(&mut Random(13), ROWS, COLS, 4, 1e-2);
    refused(&mut fits.w, ROWS, &other, &mut fits.record);

    let other_scale = Factors { scale: 1.5, ..fits.adapter.clone() };
    assert!(refused(&mut fits.w, ROWS, &other_scale, &mut fits.record).contains("scale"));

    let mut other_w = fits.w.clone();
    other_w[77] = bf16::from_f32(0.5);
    assert!(refused(&mut other_w, ROWS, &fits.adapter, &mut fits.record).contains("`w`"));

    let smaller = Factors { a: fits.adapter.a[..4 * 10].to_vec(), ..fits.adapter.clone() };
    assert!(refused(&mut fits.w[..10 * COLS], 10, &smaller, &mut fits.record).contains("[20, 24]"));

    let mut empty = RestoreRecord::new(RestoreMethod::Codes);
    assert!(refused(&mut fits.w, ROWS, &fits.adapter, &mut empty).contains("empty"));

    let view = MatrixMut::new(&mut fits.w, ROWS, COLS).unwrap();
    let second_merge = WeightUpdate::merge(view, fits.adapter.adapter()).record(&mut fits.record);
    assert!(matches!(Cpu::new().update_weights(second_merge), Err(Error::RecordMismatch(_))));
}

#[test]
fn a_record_goes_through_its_parts_and_damage_is_noticed() {
    let Merged { mut w, adapter, record } = merged();
    let (method, recorded) = (record.method(), *record.recorded().unwrap());
    let (codes, escapes) = (record.codes().clone(), record.escapes().to_vec());
    assert!(!escapes.is_empty());

    let mut without_escapes = RestoreRecord::from_parts(method, recorded, codes.clone(), vec![]);
    assert!(refused(&mut w, ROWS, &adapter, &mut without_escapes).contains("escape"));
    let mut short = RestoreRecord::from_parts(method, recorded, codes[1..].to_vec(), escapes.clone());
    assert!(refused(&mut w, ROWS, &adapter, &mut short).contains("480"));

    let reversed: Vec<Escape> = escapes.into_iter().rev().collect();
    let mut whole = RestoreRecord::from_parts(method, recorded, codes, reversed);
    let view = MatrixMut::new(&mut w, ROWS, COLS).unwrap();
    Cpu::new().update_weights(WeightUpdate::unmerge(view, adapter.adapter()).record(&mut whole)).unwrap();
    assert_eq!(w[5], bf16::INFINITY);
}

/// A record made over one layout restores over another: codes count in W [in, out].
fn restores_over_another_layout<T: Element>([rows, cols]: [usize; 2], method: RestoreMethod) {
    let mut random = Random(14);
    let base: Vec<T> = random.matrix(rows * cols, 0.02);
    let adapter = Factors::<f32>::random(&mut random, rows, cols, 6, 2e-2);
    let mut cpu = Cpu::new();
    let mut plain = Stored::new(&base, rows, cols, false, 0);
    let mut transposed = Stored::new(&base, rows, cols, true, 3);
    let mut records = [method; 2].map(RestoreRecord::new);
    for (w, record) in [&mut plain, &mut transposed].into_iter().zip(&mut records) {
        cpu.update_weights(WeightUpdate::merge(w.view_mut(), adapter.adapter()).record(record)).unwrap();
    }
    let [first, second] = &mut records;
    assert_eq!(first.recorded(), second.recorded());
    assert!(first.codes() == second.codes());
    assert_eq!(first.escapes(), second.escapes());
    assert_eq!(first.escapes().is_empty(), method == RestoreMethod::Backup);
    for (w, record) in [(&mut transposed, first), (&mut plain, second)] {
        cpu.update_weights(WeightUpdate::unmerge(w.view_mut(), adapter.adapter()).record(record)).unwrap();
        assert!(all_bits(&w.values()) == all_bits(&base));
    }
}

#[test]
fn records_do_not_depend_on_layout() {
    // The wide ones reach beyond one block of work in each direction.
    for shape in [[66, 131], [70, 1100], [1100, 70]] {
        for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
            restores_over_another_layout::<bf16>(shape, method);
            restores_over_another_layout::<f16>(shape, method);
            restores_over_another_layout::<f32>(shape, method);
        }
    }
}
