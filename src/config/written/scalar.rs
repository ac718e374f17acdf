//! Values that may be written in more than one form.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use crate::outbound::warm::WarmPolicy;

/// A whole number, or a string of its digits, as shadowsocks-libev writes ports and timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number<T>(pub(crate) T);

/// An unsigned type that [`Number`] can hold.
pub(crate) trait Whole: TryFrom<u64> {
    /// What an error says is expected.
    const EXPECTED: &'static str;
}

impl Whole for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
}
impl Whole for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
}
impl Whole for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
}

impl<'de, T: Whole> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits<T>(PhantomData<T>);
        impl<T: Whole> Visitor<'_> for Digits<T> {
            type Value = Number<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Number<T>, E> {
                T::try_from(number)
                    .map(Number)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Number<T>, E> {
                match text.parse::<u64>() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Other("text"), &self)),
                }
            }
        }
        deserializer.deserialize_any(Digits(PhantomData))
    }
}

/// A string, or an array of strings; a string is an array of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strings {
    /// The strings in their order.
    pub(crate) items: Vec<String>,
    /// Whether it was an array, so that an error can name the element.
    pub(crate) array: bool,
}

impl Strings {
    /// The path of one of the strings, if all of them are at `path`.
    pub(crate) fn path_of(&self, path: &str, index: usize) -> String {
        match self.array {
            true => format!("{path}[{index}]"),
            false => path.to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings {
                    items: vec![text.to_owned()],
                    array: false,
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Option<String>>()? {
                    items.push(item.unwrap_or_default());
                }
                Ok(Strings { items, array: true })
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// An array of objects. `null` is an object without keys, so that one bad element does not hide errors in the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<Option<T>>::deserialize(deserializer)?;
        Ok(Self(
            items.into_iter().map(Option::unwrap_or_default).collect(),
        ))
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// `true`, `false`, or an object; `true` is an empty object.
#[derive(Clone, Debug)]
pub(crate) enum Switch<T> {
    /// `false`.
    Off,
    /// `true`, or an object.
    On(Box<T>),
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Form<T> {
            type Value = Switch<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false` or an object: `{ … }`")
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<Switch<T>, E> {
                Ok(if on {
                    Switch::On(Box::default())
                } else {
                    Switch::Off
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
                    .map(|object| Switch::On(Box::new(object)))
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}

/// `warm_connections`: `"auto"` or a number.
impl<'de> Deserialize<'de> for WarmPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = WarmPolicy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a whole number")
            }
            fn visit_u64<E: Error>(self, count: u64) -> Result<WarmPolicy, E> {
                Ok(WarmPolicy::Count(count.try_into().unwrap_or(usize::MAX)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<WarmPolicy, E> {
                match text {
                    "auto" => Ok(WarmPolicy::Auto),
                    _ => Err(E::invalid_value(Unexpected::Other("text"), &self)),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// `balancer.probe`: a target, or a switch.
#[derive(Clone, Debug)]
pub(crate) enum ProbeTarget {
    /// `false`, or `true` for the default.
    Switch(bool),
    /// `HOST:PORT` or `HOST:PORT/PATH`.
    Target(String),
}

impl<'de> Deserialize<'de> for ProbeTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = ProbeTarget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`false`, or a target: \"HOST:PORT/PATH\"")
            }
            fn visit_bool<E: Error>(self, on: bool) -> Result<ProbeTarget, E> {
                Ok(ProbeTarget::Switch(on))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ProbeTarget, E> {
                Ok(ProbeTarget::Target(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// A URL, or an object with a URL and other keys.
#[derive(Clone, Debug)]
pub(crate) enum UrlOr<T> {
    /// The URL alone.
    Url(String),
    /// The object.
    Object(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UrlOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = UrlOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or an object: `{ \"url\": … }`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<UrlOr<T>, E> {
                Ok(UrlOr::Url(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UrlOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(UrlOr::Object)
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}

/// A name, or an object.
#[derive(Clone, Debug)]
pub(crate) enum NameOr<T> {
    /// The name.
    Name(String),
    /// The object.
    Object(Box<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NameOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = NameOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or an object: `{ … }`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<NameOr<T>, E> {
                Ok(NameOr::Name(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NameOr<T>, A::Error> {
                let object = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NameOr::Object(Box::new(object)))
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}
