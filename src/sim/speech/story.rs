//! Stories from a handful of sentences, in an order that a seed chooses.

const WHO: [&str; 6] =
    ["The keeper", "A young engineer", "The old lamp", "The ferryman", "Her brother", "The harbour cat"];
const DID: [&str; 7] = [
    "counted the ships again",
    "wrote the hour into the book",
    "carried a letter that nobody had asked for",
    "waited for the fog to lift",
    "mended what the night had broken",
    "listened to the bell under the water",
    "walked the whole length of the wall",
];
const WHY: [&str; 6] = [
    "because that was the rule",
    "and found one too many",
    "although the wind had turned",
    "as if nothing had happened",
    "until the tide came back",
    "and told no one about it",
];

/// A story of so many sentences, five to a paragraph.
pub(super) fn tell(seed: u64, sentences: usize) -> String {
    let mut text = String::from("## The lighthouse\n\n");
    let mut state = seed | 1;
    for n in 0..sentences {
        let [who, did, why] = [WHO.len(), DID.len(), WHY.len()].map(|len| {
            // An LCG is enough to vary sentences; what counts is that the same seed tells the same story.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap_or(0) % len
        });
        text.push_str(&format!("{} {} {}.", WHO[who], DID[did], WHY[why]));
        text.push_str(if n % 5 == 4 { "\n\n" } else { " " });
    }
    text.push_str("And in the morning the light was still burning.");
    text
}
