//! Handwritten digits: reading, turning, splitting.

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Pixels on a side of an image.
pub const SIDE: usize = 8;
/// Pixels of an image: the network's inputs.
pub const PIXELS: usize = SIDE * SIDE;
/// Digits: the network's outputs.
pub const CLASSES: usize = 10;

/// Source and licence are stated in digits.md.
const DIGITS: &str = include_str!("digits.csv");

/// Images with their digits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Pixels from 0 (paper) to 1 (ink), row by row, image by image.
    pub pixels: Vec<f32>,
    /// The digit that each image shows.
    pub labels: Vec<usize>,
}

/// What one network, or one adapter, has to learn.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is to be read.
    pub name: &'static str,
    /// Images to learn from.
    pub training: Samples,
    /// Images that training never sees.
    pub held_out: Samples,
}

/// The base task and the two tasks of the adapters.
pub fn tasks(rng: &mut StdRng) -> Result<(Task, [Task; 2])> {
    let (training, held_out) = parse(DIGITS)?.split(rng);
    let low = |samples: &Samples| samples.select(|digit| digit < 5);
    let high = |samples: &Samples| samples.select(|digit| digit >= 5);
    let base = Task { name: "digits 0-4", training: low(&training), held_out: low(&held_out) };
    let new_digits = Task { name: "digits 5-9", training: high(&training), held_out: high(&held_out) };
    let turned = Task {
        name: "digits 0-4 turned by 90°",
        training: base.training.turned(),
        held_out: base.held_out.turned(),
    };
    Ok((base, [new_digits, turned]))
}

/// Reads lines of 64 pixels (0 to 16) and a digit, separated by commas.
fn parse(text: &str) -> Result<Samples> {
    let mut samples = Samples::default();
    for (index, line) in text.lines().enumerate() {
        let numbers: Vec<u8> = line
            .split(',')
            .map(|field| field.trim().parse().with_context(|| format!("{field:?} is not a small number")))
            .collect::<Result<_>>()
            .with_context(|| format!("line {}", index + 1))?;
        ensure!(
            numbers.len() == PIXELS + 1,
            "line {}: {} numbers instead of {PIXELS} pixels and a digit",
            index + 1,
            numbers.len()
        );
        let (pixels, digit) = (&numbers[..PIXELS], usize::from(numbers[PIXELS]));
        ensure!(pixels.iter().all(|&pixel| pixel <= 16), "line {}: a pixel is above 16", index + 1);
        ensure!(digit < CLASSES, "line {}: {digit} is not a digit", index + 1);
        samples.push(&pixels.iter().map(|&pixel| f32::from(pixel) / 16.0).collect::<Vec<_>>(), digit);
    }
    Ok(samples)
}

impl Samples {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of one image.
    fn image(&self, index: usize) -> &[f32] {
        &self.pixels[index * PIXELS..][..PIXELS]
    }

    fn push(&mut self, image: &[f32], digit: usize) {
        self.pixels.extend_from_slice(image);
        self.labels.push(digit);
    }

    /// The images with these indices, in this order.
    pub fn pick(&self, indices: &[usize]) -> Samples {
        let mut picked = Samples::default();
        for &index in indices {
            picked.push(self.image(index), self.labels[index]);
        }
        picked
    }

    /// All images in a new order, in batches.
    pub fn shuffled_batches(&self, size: usize, rng: &mut StdRng) -> Vec<Samples> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(rng);
        order.chunks(size).map(|indices| self.pick(indices)).collect()
    }

    fn select(&self, wanted: impl Fn(usize) -> bool) -> Samples {
        let indices: Vec<usize> = (0..self.len()).filter(|&index| wanted(self.labels[index])).collect();
        self.pick(&indices)
    }

    /// Every image turned by 90° to the left.
    fn turned(&self) -> Samples {
        let mut turned = Samples::default();
        for index in 0..self.len() {
            let image = self.image(index);
            let rotated: Vec<f32> = (0..PIXELS)
                .map(|pixel| {
                    let (row, column) = (pixel / SIDE, pixel % SIDE);
                    image[column * SIDE + (SIDE - 1 - row)]
                })
                .collect();
            turned.push(&rotated, self.labels[index]);
        }
        turned
    }

    /// Three quarters of each digit for training, one quarter held out.
    fn split(&self, rng: &mut StdRng) -> (Samples, Samples) {
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        for digit in 0..CLASSES {
            let mut indices: Vec<usize> =
                (0..self.len()).filter(|&index| self.labels[index] == digit).collect();
            indices.shuffle(rng);
            let (first, rest) = indices.split_at(indices.len() / 4);
            held_out.extend_from_slice(first);
            training.extend_from_slice(rest);
        }
        (self.pick(&training), self.pick(&held_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn all_images_are_read() {
        let samples = parse(DIGITS).unwrap();
        assert_eq!(samples.len(), 1797);
        assert_eq!(samples.pixels.len(), 1797 * PIXELS);
        let first_row: Vec<f32> = [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0].map(|ink| ink / 16.0).into();
        assert_eq!(samples.image(0)[..SIDE], first_row);
        let of_each: Vec<usize> = (0..CLASSES).map(|digit| samples.select(|d| d == digit).len()).collect();
        assert_eq!(of_each, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }

    #[test]
    fn malformed_lines_are_named() {
        let line =
            |pixels: usize, ink: &str, digit: &str| format!("{}{digit}\n", format!("{ink},").repeat(pixels));
        let good = line(64, "3", "7");
        for (bad, message) in [
            (line(63, "3", "7"), "line 2: 64 numbers"),
            (line(64, "17", "7"), "line 2: a pixel is above 16"),
            (line(64, "3", "10"), "line 2: 10 is not a digit"),
            (line(64, "x", "7"), "line 2: \"x\" is not a small number"),
            ("\n".into(), "line 2: \"\" is not a small number"),
        ] {
            let error = format!("{:#}", parse(&(good.clone() + &bad)).unwrap_err());
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn turning_moves_the_right_edge_to_the_top() {
        let image: Vec<f32> = (0..PIXELS).map(|pixel| pixel as f32).collect();
        let samples = Samples { pixels: image.clone(), labels: vec![4] };
        let turned = samples.turned();
        let right_edge: Vec<f32> = (0..SIDE).map(|row| (row * SIDE + SIDE - 1) as f32).collect();
        assert_eq!(turned.pixels[..SIDE], right_edge);
        assert_eq!(turned.turned().turned().turned(), samples);
    }

    #[test]
    fn tasks_share_no_image_between_training_and_test() {
        let (base, others) = tasks(&mut StdRng::seed_from_u64(3)).unwrap();
        let bits =
            |samples: &Samples, i: usize| samples.image(i).iter().map(|p| p.to_bits()).collect::<Vec<_>>();
        for task in others.iter().chain([&base]) {
            let seen: std::collections::HashSet<_> =
                (0..task.training.len()).map(|i| bits(&task.training, i)).collect();
            let leaked =
                (0..task.held_out.len()).filter(|&i| seen.contains(&bits(&task.held_out, i))).count();
            assert_eq!(leaked, 0, "{}: images on both sides", task.name);
            assert!(task.training.len() > 2 * task.held_out.len());
        }
        assert_eq!(base.training.len() + base.held_out.len(), 178 + 182 + 177 + 183 + 181);
        assert!(others[0].held_out.labels.iter().all(|&digit| digit >= 5));
    }

    #[test]
    fn an_epoch_shows_every_image_once() {
        let samples = parse(DIGITS).unwrap().select(|digit| digit == 8);
        let batches = samples.shuffled_batches(32, &mut StdRng::seed_from_u64(5));
        assert_eq!(batches.iter().map(Samples::len).collect::<Vec<_>>(), [32, 32, 32, 32, 32, 14]);
        let images = |batch: &Samples| batch.pixels.chunks(PIXELS).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let mut shown: Vec<Vec<f32>> = batches.iter().flat_map(images).collect();
        let mut all = images(&samples);
        assert_ne!(shown, all, "the order must be new");
        let order = |a: &Vec<f32>, b: &Vec<f32>| a.partial_cmp(b).unwrap();
        shown.sort_by(order);
        all.sort_by(order);
        assert_eq!(shown, all);
    }
}
