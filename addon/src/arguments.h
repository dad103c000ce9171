// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <string>

// JavaScript has validated types and sizes; these only convert.
namespace homeproxy {

struct Bytes {
  void* data = nullptr;
  size_t size = 0;
};

// A Uint8Array, in place; null and undefined are no bytes.
inline Bytes BytesOf(const Napi::Value& value) {
  if (!value.IsTypedArray()) return {};
  auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

inline int IntOf(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }

inline uint32_t UnsignedOf(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

inline std::string TextOf(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value(); }

}  // namespace homeproxy
