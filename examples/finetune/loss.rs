//! Softmax cross-entropy, and accuracy.

/// The mean loss, and the gradient of the *sum* over the batch with respect to the logits.
///
/// The optimizer divides by the batch in `f32`: gradients on the way through f16 layers then stay clear of its small
/// numbers.
pub fn cross_entropy(logits: &[f32], labels: &[usize]) -> (f32, Vec<f32>) {
    let classes = logits.len() / labels.len();
    let mut gradient = Vec::with_capacity(logits.len());
    let mut sum = 0.0;
    for (row, &label) in logits.chunks(classes).zip(labels) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let partition: f32 = row.iter().map(|logit| (logit - largest).exp()).sum();
        sum += partition.ln() - (row[label] - largest);
        gradient.extend(row.iter().enumerate().map(|(class, logit)| {
            let target = if class == label { 1.0 } else { 0.0 };
            (logit - largest).exp() / partition - target
        }));
    }
    (sum / labels.len() as f32, gradient)
}

/// The class with the largest logit, row by row.
pub fn predictions(logits: &[f32], classes: usize) -> Vec<usize> {
    let largest = |row: &[f32]| (0..classes).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap_or(0);
    logits.chunks(classes).map(largest).collect()
}

/// The share of rows whose largest logit is the label's, from 0 to 1.
pub fn accuracy(logits: &[f32], labels: &[usize]) -> f64 {
    let predicted = predictions(logits, logits.len() / labels.len());
    predicted.iter().zip(labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_lose_the_logarithm_of_the_classes() {
        let (loss, gradient) = cross_entropy(&[1000.0; 8], &[2, 0]);
        assert!((loss - 4f32.ln()).abs() < 1e-6);
        assert_eq!(gradient, [0.25, 0.25, -0.75, 0.25, -0.75, 0.25, 0.25, 0.25]);
    }

    #[test]
    fn gradient_is_the_slope_of_the_summed_loss() {
        let (logits, labels) = ([0.3, -1.2, 0.9, 0.1, 2.0, -0.5], [2, 0]);
        let (_, gradient) = cross_entropy(&logits, &labels);
        for (i, slope) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut logits = logits;
                logits[i] += by;
                2.0 * cross_entropy(&logits, &labels).0
            };
            // A step of 2^-6 leaves f32 noise and curvature both below 1e-4.
            let measured = (shifted(1.0 / 64.0) - shifted(-1.0 / 64.0)) * 32.0;
            assert!((measured - slope).abs() < 1e-4, "{i}: {measured} against {slope}");
        }
    }

    #[test]
    fn accuracy_counts_rows_with_the_label_on_top() {
        assert_eq!(accuracy(&[0.0, 1.0, 3.0, 2.0, -1.0, -2.0, 5.0, 6.0], &[1, 0, 1, 1]), 0.75);
    }
}
