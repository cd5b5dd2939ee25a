//! Rope scaling as config.json spells it: the object `rope_scaling`.

use super::rotary::{RopeScaling, Yarn};
use crate::models::ModelError;
use crate::weights::{Parameters, WeightsError};

/// Kinds of scaling this build computes; for errors.
const KINDS: &str = "default, linear, llama3, yarn";

/// The scaling of a model with these hyper-parameters.
///
/// # Errors
/// A kind that is not supported, a parameter that the kind needs and that is absent or not positive.
pub fn rope_scaling(config: &Parameters) -> Result<RopeScaling, ModelError> {
    let Some(rope) = config.section("rope_scaling")? else { return Ok(RopeScaling::None) };
    let positive = |key: &str| match rope.f32(key)? {
        value if value > 0.0 => Ok(value),
        value => Err(rope.refuse(key, format!("must be positive, is {value}"))),
    };
    match rope.optional_str("rope_type")? {
        None | Some("default" | "none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: positive("factor")? }),
        Some("llama3") => {
            let (low, high) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if high <= low {
                let reason = format!("must be above low_freq_factor, {low}; is {high}");
                return Err(rope.refuse("high_freq_factor", reason).into());
            }
            Ok(RopeScaling::Llama3 {
                factor: positive("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: positive("original_max_position_embeddings")?,
            })
        }
        Some("yarn") => Ok(RopeScaling::Yarn(yarn(config, &rope)?)),
        Some(other) => Err(rope.refuse("rope_type", format!("{other:?} is not supported (supported: {KINDS})")).into()),
    }
}

fn yarn(config: &Parameters, rope: &Parameters) -> Result<Yarn, WeightsError> {
    let context = config.usize("max_position_embeddings")? as f32;
    let original_context = rope.f32_or("original_max_position_embeddings", context)?;
    let factor = rope.f32_or("factor", context / original_context)?;
    if !(original_context > 0.0 && factor > 0.0 && factor.is_finite()) {
        let reason = format!("{factor} over a context of {original_context}; both must be positive");
        return Err(rope.refuse("factor", reason));
    }
    // Absent or 0: the paper's bounds.
    let beta = |key: &str, default: f32| -> Result<f32, WeightsError> {
        Ok(rope.optional_f32(key)?.filter(|beta| *beta > 0.0).unwrap_or(default))
    };
    Ok(Yarn {
        factor,
        original_context,
        beta_fast: beta("beta_fast", 32.0)?,
        beta_slow: beta("beta_slow", 1.0)?,
        attention_factor: rope.optional_f32("attention_factor")?,
        mscale: rope.optional_f32("mscale")?,
        mscale_all_dim: rope.optional_f32("mscale_all_dim")?,
        truncate: rope.bool_or("truncate", true)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn does_each_kind_give_its_scaling_or_say_what_is_wrong() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
            "original_max_position_embeddings": 64});
        let cases = [
            (json!(null), Ok(RopeScaling::None)),
            (json!({"rope_type": "default"}), Ok(RopeScaling::None)),
            (json!({"rope_type": "linear", "factor": 2.0}), Ok(RopeScaling::Linear { factor: 2.0 })),
            (json!({"rope_type": "linear"}), Err("rope_scaling.factor: is missing")),
            (json!({"rope_type": "linear", "factor": -1}), Err("must be positive")),
            (json!({"rope_type": "dynamic", "factor": 2}), Err("\"dynamic\" is not supported")),
            (json!({"rope_type": "yarn", "factor": 0}), Err("both must be positive")),
            (llama3, Err("must be above low_freq_factor")),
        ];
        for (scaling, want) in cases {
            let text = scaling.to_string();
            let values = json!({"max_position_embeddings": 128, "rope_scaling": scaling});
            let config = Parameters::new(Path::new("config.json"), values.as_object().expect("an object").clone());
            match (rope_scaling(&config), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?} instead of {want:?}"),
            }
        }
    }
}
