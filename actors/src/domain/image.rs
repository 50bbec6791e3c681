//! Images as messages carry them: base64 of a kind that model servers read. Known by their heads, whatever anybody
//! calls them; no pixel is decoded here. Pure.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use imagesize::ImageType;

use super::problem::FieldError;

/// Images with one message.
pub const IMAGES_MAX: usize = 8;
/// All images of a message together, in bytes of base64.
pub const IMAGES_MAX_BYTES: usize = 8 << 20;

/// Most pixels of an image: what a server would have to unpack.
pub const PIXELS_MAX: usize = 100_000_000;

/// Why these bytes are no image that a model may look at.
fn fault(bytes: &[u8]) -> Option<String> {
    let known = imagesize::image_type(bytes).is_ok_and(|kind| {
        matches!(kind, ImageType::Gif | ImageType::Jpeg | ImageType::Png | ImageType::Webp)
    });
    if !known {
        return Some("is not a PNG, JPEG, WebP or GIF image".into());
    }
    match imagesize::blob_size(bytes).map(|size| size.width.saturating_mul(size.height)) {
        Ok(1..=PIXELS_MAX) => None,
        Ok(0) | Err(_) => Some("begins like an image and is none".into()),
        Ok(_) => Some(format!("has more than {PIXELS_MAX} pixels")),
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
        let fault = match STANDARD.decode(image.as_bytes()) {
            Err(_) => Some("must be standard base64, without a data: prefix".into()),
            Ok(bytes) => fault(&bytes),
        };
        if let Some(reason) = fault {
            wrong(format!("{field}.{at}"), reason);
        }
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

    fn png(width: u32, height: u32) -> Vec<u8> {
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".as_slice(), &size, &[8, 2, 0, 0, 0]].concat()
    }

    #[test]
    fn images_are_known_by_their_heads() {
        let png = STANDARD.encode(png(2, 3));
        let jpeg =
            STANDARD.encode(b"\xff\xd8\xff\xc0\0\x11\x08\0\x03\0\x02\x03\x01\x11\0\x02\x11\0\x03\x11\0");
        let webp = STANDARD.encode(b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\x01\x80\0\0\0\0\0\0\0\0\0\0\0");
        let gif = STANDARD.encode(b"GIF89a\x02\0\x03\0\0\0\0");
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
    fn what_only_begins_like_an_image_is_none_and_none_has_too_many_pixels() {
        let bare: [&[u8]; 4] = [b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\0\0\0\0\0", b"RIFF1234WEBP"];
        let bombs = [png(u32::MAX, u32::MAX), png(0, 1), png(10_001, 10_000)];
        for bytes in bare.into_iter().chain(bombs.iter().map(Vec::as_slice)) {
            assert_eq!(errors(&[STANDARD.encode(bytes)]), ["images.0"], "{bytes:?}");
        }
        assert_eq!(errors(&[STANDARD.encode(png(10_000, 10_000))]), [] as [&str; 0]);
    }

    #[test]
    fn images_have_a_largest_size_together() {
        let mut bytes = png(1, 1);
        bytes.resize(IMAGES_MAX_BYTES / 8 * 3, 0);
        let half = STANDARD.encode(&bytes);
        assert_eq!(errors(&[half.clone(), half.clone()]), [] as [&str; 0]);
        assert_eq!(errors(&[half.clone(), half, STANDARD.encode(png(1, 1))]), ["images"]);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in any::<String>()) {
            let _ = errors(&[text]);
        }
    }
}
