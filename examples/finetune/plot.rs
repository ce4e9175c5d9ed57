//! Loss curves as an SVG picture.

use anyhow::{Context, Result};
use plotters::prelude::*;
use std::path::Path;

/// The loss of each step of one training.
#[derive(Debug)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// One loss a step.
    pub losses: Vec<f32>,
}

/// Steps that one point of a curve is the mean of: single batches are noisy.
const WINDOW: usize = 10;
const COLOURS: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0)];

/// Writes the picture to a file.
pub fn write(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    let svg = draw(title, curves)?;
    std::fs::write(path, svg).with_context(|| format!("{} could not be written", path.display()))
}

/// The mean loss of the steps around each step.
fn smooth(losses: &[f32]) -> Vec<f32> {
    let mean = |window: &[f32]| window.iter().sum::<f32>() / window.len() as f32;
    (0..losses.len())
        .map(|step| mean(&losses[step.saturating_sub(WINDOW / 2)..losses.len().min(step + WINDOW / 2)]))
        .collect()
}

fn draw(title: &str, curves: &[Curve]) -> Result<String> {
    let smoothed: Vec<Vec<f32>> = curves.iter().map(|curve| smooth(&curve.losses)).collect();
    let steps = smoothed.iter().map(Vec::len).max().unwrap_or(0).max(2);
    let positive = || smoothed.iter().flatten().copied().filter(|&loss| loss > 0.0 && loss.is_finite());
    let lowest = positive().fold(f32::INFINITY, f32::min).min(1.0) / 1.5;
    let highest = positive().fold(0.0, f32::max).max(2.0 * lowest) * 1.5;

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (800, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0..steps - 1, (lowest..highest).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("training step")
            .y_desc("cross-entropy loss, mean of 10 steps")
            .y_label_formatter(&|loss| format!("{loss}"))
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .light_line_style(WHITE)
            .draw()?;
        for (index, (curve, losses)) in curves.iter().zip(&smoothed).enumerate() {
            let style = COLOURS[index % COLOURS.len()].stroke_width(2);
            let points = losses.iter().enumerate().map(|(step, &loss)| (step, loss.max(lowest)));
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_is_well_formed_and_has_both_curves() {
        let curve = |name: &str, steps: usize| Curve {
            name: name.into(),
            losses: (0..steps).map(|step| 3.0 / (step + 1) as f32).collect(),
        };
        let svg = draw("loss & <title>", &[curve("one", 50), curve("two", 80)]).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<String> = document
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
            .filter_map(|node| node.text().map(|text| text.trim().to_owned()))
            .collect();
        for expected in ["loss & <title>", "one", "two", "training step"] {
            assert!(texts.iter().any(|text| text == expected), "{expected} in {texts:?}");
        }
        let longest = |colour: &str| {
            document
                .descendants()
                .filter(|node| {
                    node.tag_name().name() == "polyline" && node.attribute("stroke") == Some(colour)
                })
                .filter_map(|node| node.attribute("points"))
                .map(|points| points.split_whitespace().count())
                .max()
        };
        assert_eq!((longest("#0072B2"), longest("#D55E00")), (Some(50), Some(80)));
    }

    #[test]
    fn losses_of_zero_or_infinity_are_drawn_too() {
        let odd = Curve { name: "odd".into(), losses: vec![0.0, f32::INFINITY, f32::NAN] };
        for losses in [vec![], vec![0.0; 30], vec![2.0]] {
            let svg = draw("odd", &[Curve { name: "edge".into(), losses }]).unwrap();
            roxmltree::Document::parse(&svg).unwrap();
        }
        roxmltree::Document::parse(&draw("odd", &[odd]).unwrap()).unwrap();
    }

    #[test]
    fn smoothing_takes_the_mean_of_the_window() {
        let losses: Vec<f32> = (0..20).map(|step| step as f32).collect();
        let smoothed = smooth(&losses);
        assert_eq!((smoothed.len(), smoothed[0], smoothed[10]), (20, 2.0, 9.5));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = write(Path::new("no/such/folder/loss.svg"), "", &[]).unwrap_err();
        assert!(error.to_string().contains("no/such/folder/loss.svg"));
    }
}
