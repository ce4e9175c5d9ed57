//! A record of something else, or a damaged one, is refused before anything is written.

use super::{PACKED, plain_adapter, weights};
use crate::devices::device_tests;
use lora_kernels::fingerprint::Fingerprint;
use lora_kernels::restore::{Escape, Recorded, RestoreMethod, RestoreRecord};
use lora_kernels::{DType, Error};
use lora_oracle::device::{Codes, Size, TestDevice, Tested};
use lora_oracle::matrix::Matrix;
use lora_oracle::random::Random;
use lora_oracle::run::{self, AdapterArguments};

device_tests!(
    records_of_something_else_are_refused,
    damaged_records_are_refused,
    replaced_codes_are_refused,
    random_damage_is_refused,
);

const SHAPE: [usize; 2] = [20, 24];

/// A merged weight with its adapter and its record on the host.
struct Merged {
    base: Matrix,
    w: Matrix,
    adapter: AdapterArguments,
    record: RestoreRecord,
}

impl Merged {
    fn new<D: TestDevice>(device: &Tested<D>, method: RestoreMethod, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut base = weights(&mut random, DType::Bf16, SHAPE, PACKED);
        base.set(0, 5, f64::INFINITY);
        base.set(3, 7, 0.0);
        base.set(19, 23, f64::NAN);
        let adapter = plain_adapter(&mut random, SHAPE, 4, 1e-2);
        let (mut w, mut record) = (base.clone(), RestoreRecord::new(method));
        run::update_weights(device, &mut w, None, Some(&adapter), Some(&mut record)).unwrap();
        let record = device.download_record(&record);
        assert_eq!(record.escapes().is_empty(), method == RestoreMethod::Backup);
        Merged { base, w, adapter, record }
    }

    fn recorded(&self) -> Recorded {
        *self.record.recorded().unwrap()
    }

    /// The record with other parts.
    fn with(&self, recorded: Recorded, codes: Vec<u8>, escapes: Vec<Escape>) -> RestoreRecord {
        RestoreRecord::from_parts(self.record.method(), recorded, codes, escapes)
    }

    fn with_codes(&self, codes: Vec<u8>) -> RestoreRecord {
        self.with(self.recorded(), codes, self.record.escapes().to_vec())
    }

    fn with_escapes(&self, escapes: Vec<Escape>) -> RestoreRecord {
        self.with(self.recorded(), self.record.codes().clone(), escapes)
    }

    fn with_recorded(&self, recorded: Recorded) -> RestoreRecord {
        self.with(recorded, self.record.codes().clone(), self.record.escapes().to_vec())
    }

    /// The whole record still restores.
    fn restores<D: TestDevice>(mut self, device: &Tested<D>) {
        let mut record = device.upload_record(&self.record);
        run::update_weights(device, &mut self.w, Some(&self.adapter), None, Some(&mut record)).unwrap();
        assert!(self.w.all_bits() == self.base.all_bits(), "{}", D::NAME);
    }
}

/// The unmerge and the switch must be refused as a mismatch, and nothing written.
#[track_caller]
fn refused<D: TestDevice>(
    device: &Tested<D>,
    w: &Matrix,
    adapter: &AdapterArguments,
    record: &RestoreRecord,
    what: &str,
) -> String {
    let mut message = String::new();
    for add in [None, Some(adapter)] {
        let (mut after, mut on_device) = (w.clone(), device.upload_record(record));
        let error = run::update_weights(device, &mut after, Some(adapter), add, Some(&mut on_device))
            .expect_err(&format!("{}: {what}", D::NAME));
        assert!(matches!(error, Error::RecordMismatch(_)), "{}: {what}: {error}", D::NAME);
        assert!(after.data.bytes() == w.data.bytes(), "{}: {what}: written before `{error}`", D::NAME);
        let on_device = device.download_record(&on_device);
        assert_eq!(on_device.recorded(), record.recorded(), "{what}");
        assert!(on_device.recorded().is_none() || on_device.codes() == record.codes(), "{what}");
        assert_eq!(on_device.escapes(), record.escapes(), "{what}");
        message = error.to_string();
    }
    message
}

fn records_of_something_else_are_refused<D: TestDevice>(device: &Tested<D>) {
    let merged = Merged::new(device, RestoreMethod::Codes, 12);
    let Merged { w, adapter, record, .. } = &merged;
    let other = plain_adapter(&mut Random::new(13), SHAPE, 4, 1e-2);
    assert!(refused(device, w, &other, record, "another adapter").contains("adapter"));
    let mut one_element = adapter.clone();
    one_element.b.set_bits(3, 23, adapter.b.bits(3, 23) ^ 1);
    assert!(refused(device, w, &one_element, record, "another element of B").contains("adapter"));
    let other_scale = AdapterArguments { scale: 1.5, ..adapter.clone() };
    assert!(refused(device, w, &other_scale, record, "another scale").contains("scale"));

    for (i, j) in [(0, 0), (3, 5), (19, 23)] {
        let mut other_w = w.clone();
        other_w.set_bits(i, j, w.bits(i, j) ^ 1);
        assert!(refused(device, &other_w, adapter, record, "one bit of W").contains("`w`"));
    }
    let mut smaller = Matrix::poisoned(DType::Bf16, 10, SHAPE[1], Default::default());
    for n in 0..10 * SHAPE[1] {
        smaller.set_bits(n / SHAPE[1], n % SHAPE[1], w.bits(n / SHAPE[1], n % SHAPE[1]));
    }
    let of_smaller = plain_adapter(&mut Random::new(13), [10, SHAPE[1]], 4, 1e-2);
    assert!(refused(device, &smaller, &of_smaller, record, "half of W").contains("[20, 24]"));
    let empty = RestoreRecord::new(RestoreMethod::Codes);
    assert!(refused(device, w, adapter, &empty, "an empty record").contains("empty"));

    // The record of another weight that was merged with the same adapter.
    let mut base = weights(&mut Random::new(77), DType::Bf16, SHAPE, PACKED);
    let mut swapped = RestoreRecord::new(RestoreMethod::Codes);
    run::update_weights(device, &mut base, None, Some(adapter), Some(&mut swapped)).unwrap();
    let swapped = device.download_record(&swapped);
    refused(device, w, adapter, &swapped, "another weight's record");
    refused(device, w, adapter, &merged.with_codes(swapped.codes().clone()), "another weight's codes");

    let (mut after, mut second) = (w.clone(), device.upload_record(record));
    let again = run::update_weights(device, &mut after, None, Some(adapter), Some(&mut second));
    assert!(matches!(again, Err(Error::RecordMismatch(_))));
    assert!(after.data.bytes() == w.data.bytes());
    merged.restores(device);
}

fn damaged_records_are_refused<D: TestDevice>(device: &Tested<D>) {
    let merged = Merged::new(device, RestoreMethod::Codes, 12);
    let Merged { w, adapter, record, .. } = &merged;
    let (recorded, escapes) = (merged.recorded(), record.escapes().to_vec());
    let refuse = |record: RestoreRecord, what: &str| refused(device, w, adapter, &record, what);

    let all = record.codes().len();
    assert!(refuse(merged.with_codes(record.codes()[..all - 1].to_vec()), "a code too few").contains("480"));
    for index in [0, 7, 8, 100, all - 1] {
        let mut codes = record.codes().clone();
        codes[index] ^= 0x10;
        assert!(refuse(merged.with_codes(codes), "a changed code").contains("codes"));
    }

    assert!(refuse(merged.with_escapes(vec![]), "no escapes").contains("escape"));
    assert!(refuse(merged.with_escapes(escapes[1..].to_vec()), "an escape too few").contains("escape"));
    let mut twice = escapes.clone();
    twice[1] = twice[0];
    assert!(refuse(merged.with_escapes(twice), "an escape twice").contains("escape"));
    let mut more = escapes.clone();
    more.push(Escape { index: 1, bits: 0 });
    assert!(refuse(merged.with_escapes(more), "an escape too many").contains("escape"));
    let mut outside = escapes.clone();
    outside.last_mut().unwrap().index = u64::MAX;
    assert!(refuse(merged.with_escapes(outside), "an escape outside").contains("outside"));
    let mut elsewhere = escapes.clone();
    elsewhere[0].index += 1;
    refuse(merged.with_escapes(elsewhere), "an escape elsewhere");
    let mut other_bits = escapes.clone();
    other_bits[0].bits ^= 1;
    refuse(merged.with_escapes(other_bits), "other bits");

    let flip = |fingerprint: Fingerprint| Fingerprint(fingerprint.0 ^ (1 << 40));
    for changed in [
        Recorded { adapter: flip(recorded.adapter), ..recorded },
        Recorded { weight: flip(recorded.weight), ..recorded },
        Recorded { original: flip(recorded.original), ..recorded },
        Recorded { checksum: flip(recorded.checksum), ..recorded },
        Recorded { dtype: DType::F16, ..recorded },
    ] {
        refuse(merged.with_recorded(changed), "changed fields");
    }
    let codes = record.codes().repeat(2);
    let as_backup = RestoreRecord::from_parts(RestoreMethod::Backup, recorded, codes, vec![]);
    refuse(as_backup, "another method");

    // Escapes in any order are the same record.
    let reversed = merged.with_escapes(escapes.into_iter().rev().collect());
    Merged { record: reversed, ..merged }.restores(device);
}

fn replaced_codes_are_refused<D: TestDevice>(device: &Tested<D>) {
    for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
        let merged = Merged::new(device, method, 15);
        let other = Merged::new(device, method, 16);
        let (mut record, mut others) =
            (device.upload_record(&merged.record), device.upload_record(&other.record));
        let own = record.replace_codes(others.replace_codes(Codes::<D>::default()));
        let mut w = merged.w.clone();
        let result = run::update_weights(device, &mut w, Some(&merged.adapter), None, Some(&mut record));
        assert!(matches!(result, Err(Error::RecordMismatch(_))), "{} {method:?}: {result:?}", D::NAME);
        assert!(w.data.bytes() == merged.w.data.bytes(), "{}", D::NAME);
        record.replace_codes(own);
        run::update_weights(device, &mut w, Some(&merged.adapter), None, Some(&mut record)).unwrap();
        assert!(w.all_bits() == merged.base.all_bits(), "{}", D::NAME);
    }
}

/// A few flipped bits anywhere in the record or the weight.
fn random_damage_is_refused<D: TestDevice>(device: &Tested<D>) {
    let damages = if D::SIZE == Size::Full { 300 } else { 12 };
    for method in [RestoreMethod::Codes, RestoreMethod::Backup] {
        let merged = Merged::new(device, method, 12);
        let mut random = Random::new(99);
        for damage in 0..damages {
            let mut w = merged.w.clone();
            let mut codes = merged.record.codes().clone();
            let mut escapes = merged.record.escapes().to_vec();
            let kinds = if method == RestoreMethod::Codes { 4 } else { 3 };
            for _ in 0..=random.below(3) {
                match (damage + random.below(2)) % kinds {
                    0 => {
                        let at = random.below(codes.len() as u64) as usize;
                        codes[at] = codes[at].wrapping_add(1 + random.below(255) as u8);
                    }
                    1 => {
                        let (i, j) = (random.below(20) as usize, random.below(24) as usize);
                        w.set_bits(i, j, w.bits(i, j) ^ (1u32 << random.below(16)));
                    }
                    2 => {
                        let at = random.below(codes.len() as u64 - 1) as usize;
                        codes.swap(at, at + 1);
                        codes[at] ^= 1u8 << random.below(8);
                    }
                    _ => {
                        let at = random.below(escapes.len() as u64) as usize;
                        escapes[at].bits ^= 1u32 << random.below(16);
                    }
                }
            }
            let unchanged = w.data.bytes() == merged.w.data.bytes()
                && codes == *merged.record.codes()
                && escapes == merged.record.escapes();
            if !unchanged {
                let record = merged.with(merged.recorded(), codes, escapes);
                refused(device, &w, &merged.adapter, &record, &format!("{method:?}, damage {damage}"));
            }
        }
        merged.restores(device);
    }
}
