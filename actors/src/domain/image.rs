//! Images as messages carry them: base64 of a kind that model servers read. Known by their first bytes, whatever anybody
//! calls them; nothing is decoded further here. Pure.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::problem::FieldError;

/// Images with one message.
pub const IMAGES_MAX: usize = 8;
/// All images of a message together, in bytes of base64.
pub const IMAGES_MAX_BYTES: usize = 8 << 20;

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    WebP,
    /// GIF.
    Gif,
}

/// The kind of an image, by its first bytes.
#[must_use]
pub fn kind(bytes: &[u8]) -> Option<ImageKind> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(ImageKind::Png),
        [0xff, 0xd8, 0xff, ..] => Some(ImageKind::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageKind::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageKind::Gif),
        _ => None,
    }
}

/// Adds every image that is none to `errors`, or their list where it is too much; `field` is its name.
pub fn check_images(images: &[Arc<str>], field: &str, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: String, reason: String| errors.push(FieldError { field, reason });
    if images.len() > IMAGES_MAX {
        return wrong(field.into(), format!("at most {IMAGES_MAX}"));
    }
    if images.iter().map(|image| image.len()).sum::<usize>() > IMAGES_MAX_BYTES {
        return wrong(field.into(), format!("at most {IMAGES_MAX_BYTES} bytes of base64 together"));
    }
    for (at, image) in images.iter().enumerate() {
        let reason = match STANDARD.decode(image.as_bytes()) {
            Err(_) => "must be standard base64, without a data: prefix",
            Ok(bytes) if kind(&bytes).is_none() => "is not a PNG, JPEG, WebP or GIF image",
            Ok(_) => continue,
        };
        wrong(format!("{field}.{at}"), reason.into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn errors(images: &[String]) -> Vec<String> {
        let mut errors = vec![];
        let images: Vec<Arc<str>> = images.iter().map(|i| i.as_str().into()).collect();
        check_images(&images, "images", &mut errors);
        errors.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn images_are_known_by_their_first_bytes() {
        let png = STANDARD.encode(b"\x89PNG\r\n\x1a\nrest");
        let jpeg = STANDARD.encode(b"\xff\xd8\xff\xe0rest");
        let webp = STANDARD.encode(b"RIFF1234WEBPrest");
        let gif = STANDARD.encode(b"GIF89arest");
        assert_eq!(errors(&[png.clone(), jpeg, webp, gif]), [] as [&str; 0]);
        let svg = STANDARD.encode(b"<svg xmlns=''/>");
        let prefixed = format!("data:image/png;base64,{png}");
        assert_eq!(
            errors(&[png.clone(), svg, String::new(), prefixed]),
            ["images.1", "images.2", "images.3"]
        );
        assert_eq!(errors(&vec![png; IMAGES_MAX + 1]), ["images"]);
    }

    #[test]
    fn images_have_a_largest_size_together() {
        let mut bytes = b"\xff\xd8\xff".to_vec();
        bytes.resize(IMAGES_MAX_BYTES / 8 * 3, 0);
        let half = STANDARD.encode(&bytes);
        assert_eq!(errors(&[half.clone(), half.clone()]), [] as [&str; 0]);
        assert_eq!(errors(&[half.clone(), half, STANDARD.encode(b"GIF89a")]), ["images"]);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            let _ = errors(&[text]);
        }
    }
}
