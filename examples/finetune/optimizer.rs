//! Adam (Kingma, Ba: "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, algorithm 1).

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// The optimizer's state for one tensor: two `f32` moments a parameter.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f32,
    steps: i32,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
}

impl Adam {
    /// Bytes of state a parameter.
    pub const BYTES: usize = 2 * size_of::<f32>();

    /// No steps done yet.
    pub fn new(parameters: usize, learning_rate: f32) -> Self {
        Adam {
            learning_rate,
            steps: 0,
            first_moment: vec![0.0; parameters],
            second_moment: vec![0.0; parameters],
        }
    }

    /// One step along a gradient that was summed over `batch` samples.
    pub fn step(&mut self, parameters: &mut [f32], gradient_sum: &[f32], batch: usize) {
        self.steps += 1;
        let (correction1, correction2) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((parameter, sum), (first, second)) in parameters.iter_mut().zip(gradient_sum).zip(moments) {
            let gradient = sum / batch as f32;
            *first = BETA1 * *first + (1.0 - BETA1) * gradient;
            *second = BETA2 * *second + (1.0 - BETA2) * gradient * gradient;
            *parameter -=
                self.learning_rate * (*first / correction1) / ((*second / correction2).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let mut adam = Adam::new(2, 0.1);
        let mut parameters = [1.0, -2.0];
        // First step: m/(1-β1) = g and v/(1-β2) = g², so each parameter moves by the rate against its gradient's sign.
        adam.step(&mut parameters, &[1.0, -8.0], 2);
        assert!((parameters[0] - 0.9).abs() < 1e-6 && (parameters[1] + 1.9).abs() < 1e-6, "{parameters:?}");
        // Second step, gradients 1.5 and 0, after 0.5 and -4:
        // m₁ = 0.9·0.05 + 0.15 = 0.195,  m̂₁ = 0.195/0.19;  v₁ = 0.999·0.00025 + 0.00225, v̂₁ = v₁/0.001999
        // m₂ = 0.9·-0.4 = -0.36,         m̂₂ = -0.36/0.19;  v₂ = 0.999·0.016,             v̂₂ = v₂/0.001999
        adam.step(&mut parameters, &[3.0, 0.0], 2);
        let first = 0.9 - 0.1 * (0.195 / 0.19) / (0.00249975f64 / 0.001999).sqrt();
        let second = -1.9 + 0.1 * (0.36 / 0.19) / (0.015984f64 / 0.001999).sqrt();
        assert!((f64::from(parameters[0]) - first).abs() < 1e-5, "{} against {first}", parameters[0]);
        assert!((f64::from(parameters[1]) - second).abs() < 1e-5, "{} against {second}", parameters[1]);
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let mut parameters = [3.0];
        Adam::new(1, 0.1).step(&mut parameters, &[0.0], 4);
        assert_eq!(parameters, [3.0]);
    }
}
