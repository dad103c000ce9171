// SPDX-License-Identifier: Apache-2.0
#include "btf.h"

#include <errno.h>

#include <string>

#include "arguments.h"
#include "environment.h"
#include "failure.h"

namespace homeproxy {
namespace {

const char* KindName(const btf_type* type) {
  switch (btf_kind(type)) {
    case BTF_KIND_INT: return "int";
    case BTF_KIND_PTR: return "pointer";
    case BTF_KIND_ARRAY: return "array";
    case BTF_KIND_STRUCT: return "struct";
    case BTF_KIND_UNION: return "union";
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64: return "enum";
    case BTF_KIND_FWD: return "forward";
    case BTF_KIND_TYPEDEF: return "typedef";
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_TYPE_TAG: return "qualifier";
    case BTF_KIND_VAR: return "variable";
    case BTF_KIND_DATASEC: return "section";
    case BTF_KIND_FLOAT: return "float";
    default: return "other";
  }
}

Napi::Array Members(Napi::Env env, const btf* types, const btf_type* type) {
  Napi::Array result = Napi::Array::New(env, btf_vlen(type));
  for (uint32_t i = 0; i < btf_vlen(type); ++i) {
    const btf_member& member = btf_members(type)[i];
    Napi::Object entry = Napi::Object::New(env);
    entry["name"] = btf__name_by_offset(types, member.name_off);
    entry["type"] = member.type;
    entry["bitOffset"] = btf_member_bit_offset(type, i);
    entry["bitSize"] = btf_member_bitfield_size(type, i);
    result[i] = entry;
  }
  return result;
}

Napi::Array Enumerators(Napi::Env env, const btf* types, const btf_type* type) {
  const bool is_signed = btf_kflag(type);
  Napi::Array result = Napi::Array::New(env, btf_vlen(type));
  for (uint32_t i = 0; i < btf_vlen(type); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    if (btf_is_enum64(type)) {
      const auto& item = btf_enum64(type)[i];
      const uint64_t value = btf_enum64_value(&item);
      entry["name"] = btf__name_by_offset(types, item.name_off);
      entry["value"] = is_signed ? Napi::BigInt::New(env, static_cast<int64_t>(value)) : Napi::BigInt::New(env, value);
    } else {
      const auto& item = btf_enum(type)[i];
      entry["name"] = btf__name_by_offset(types, item.name_off);
      entry["value"] = is_signed ? static_cast<double>(item.val) : static_cast<double>(static_cast<uint32_t>(item.val));
    }
    result[i] = entry;
  }
  return result;
}

Napi::Array Variables(Napi::Env env, const btf* types, const btf_type* section) {
  Napi::Array result = Napi::Array::New(env, btf_vlen(section));
  for (uint32_t i = 0; i < btf_vlen(section); ++i) {
    const btf_var_secinfo& place = btf_var_secinfos(section)[i];
    const btf_type* variable = btf__type_by_id(types, place.type);
    Napi::Object entry = Napi::Object::New(env);
    entry["name"] = btf__name_by_offset(types, variable->name_off);
    entry["type"] = variable->type;
    entry["offset"] = place.offset;
    entry["size"] = place.size;
    result[i] = entry;
  }
  return result;
}

}  // namespace

Napi::Function Btf::Define(Napi::Env env) {
  return DefineClass(env, "Btf", {InstanceMethod<&Btf::Find>("find"), InstanceMethod<&Btf::Type>("type")});
}

Btf::Btf(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Btf>(info) {
  LogCapture log;
  if (info[0].IsString()) {
    const std::string path = TextOf(info[0]);
    types_.reset(btf__parse(path.c_str(), nullptr));
    if (types_ == nullptr) Fail(info.Env(), errno, "btf__parse", path, &log);
  } else {
    const Bytes raw = BytesOf(info[0]);
    types_.reset(btf__new(raw.data, raw.size));
    if (types_ == nullptr) Fail(info.Env(), errno, "btf__new", {}, &log);
  }
}

// (name, 'struct' | 'enum' | 'section') -> id, or 0
Napi::Value Btf::Find(const Napi::CallbackInfo& info) {
  const std::string name = TextOf(info[0]), kind = TextOf(info[1]);
  for (uint32_t id = 1; id < btf__type_cnt(types_.get()); ++id) {
    const btf_type* type = btf__type_by_id(types_.get(), id);
    if (kind == KindName(type) && name == btf__name_by_offset(types_.get(), type->name_off)) {
      return Napi::Number::New(info.Env(), id);
    }
  }
  return Napi::Number::New(info.Env(), 0);
}

Napi::Value Btf::Type(const Napi::CallbackInfo& info) {
  const uint32_t id = UnsignedOf(info[0]);
  const btf_type* type = btf__type_by_id(types_.get(), id);
  if (type == nullptr) Fail(info.Env(), ENOENT, "btf__type_by_id", std::to_string(id));
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  result["kind"] = KindName(type);
  result["name"] = btf__name_by_offset(types_.get(), type->name_off);
  result["size"] = static_cast<double>(btf__resolve_size(types_.get(), id));
  switch (btf_kind(type)) {
    case BTF_KIND_INT:
      result["signed"] = Napi::Boolean::New(env, (btf_int_encoding(type) & BTF_INT_SIGNED) != 0);
      break;
    case BTF_KIND_ARRAY:
      result["type"] = btf_array(type)->type;
      result["length"] = btf_array(type)->nelems;
      break;
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION: result["members"] = Members(env, types_.get(), type); break;
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      result["signed"] = Napi::Boolean::New(env, btf_kflag(type));
      result["values"] = Enumerators(env, types_.get(), type);
      break;
    case BTF_KIND_DATASEC: result["variables"] = Variables(env, types_.get(), type); break;
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_TYPE_TAG:
    case BTF_KIND_VAR: result["type"] = type->type; break;
    default: break;
  }
  return result;
}

Napi::Value BtfFrom(Napi::Env env, const btf* types) {
  uint32_t size = 0;
  const void* raw = btf__raw_data(types, &size);
  if (raw == nullptr) Fail(env, errno, "btf__raw_data");
  auto copy = Napi::Buffer<uint8_t>::Copy(env, static_cast<const uint8_t*>(raw), size);
  return Environment::Of(env).btf_class.New({copy});
}

}  // namespace homeproxy
