// SPDX-License-Identifier: Apache-2.0
#include "object.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>

#include <memory>
#include <string>

#include "arguments.h"
#include "btf.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};

// A compiled object: opened, changed, loaded. JavaScript calls nothing but close() after close().
class Object : public Napi::ObjectWrap<Object> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Object",
                       {
                           InstanceMethod<&Object::Maps>("maps"),
                           InstanceMethod<&Object::Programs>("programs"),
                           InstanceMethod<&Object::Types>("btf"),
                           InstanceMethod<&Object::InitialValue>("initialValue"),
                           InstanceMethod<&Object::SetInitialValue>("setInitialValue"),
                           InstanceMethod<&Object::SetMaxEntries>("setMaxEntries"),
                           InstanceMethod<&Object::ReuseMap>("reuseMap"),
                           InstanceMethod<&Object::SkipProgram>("skipProgram"),
                           InstanceMethod<&Object::Load>("load"),
                           InstanceMethod<&Object::MapDescriptor>("mapDescriptor"),
                           InstanceMethod<&Object::ProgramDescriptor>("programDescriptor"),
                           InstanceMethod<&Object::Close>("close"),
                       });
  }

  explicit Object(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Object>(info) {
    LogCapture log;
    const std::string path = TextOf(info[0]);
    object_.reset(bpf_object__open_file(path.c_str(), nullptr));
    if (object_ == nullptr) Fail(info.Env(), errno, "bpf_object__open", path, &log);
  }

 private:
  Napi::Value Maps(const Napi::CallbackInfo& info) {
    Napi::Array result = Napi::Array::New(info.Env());
    bpf_map* map;
    bpf_object__for_each_map(map, object_.get()) {
      const char* type = libbpf_bpf_map_type_str(bpf_map__type(map));
      Napi::Object entry = Napi::Object::New(info.Env());
      entry["name"] = bpf_map__name(map);
      entry["type"] = type != nullptr ? type : std::to_string(bpf_map__type(map));
      entry["keySize"] = bpf_map__key_size(map);
      entry["valueSize"] = bpf_map__value_size(map);
      entry["maxEntries"] = bpf_map__max_entries(map);
      entry["flags"] = bpf_map__map_flags(map);
      entry["keyType"] = bpf_map__btf_key_type_id(map);
      entry["valueType"] = bpf_map__btf_value_type_id(map);
      entry["internal"] = Napi::Boolean::New(info.Env(), bpf_map__is_internal(map));
      result[result.Length()] = entry;
    }
    return result;
  }

  Napi::Value Programs(const Napi::CallbackInfo& info) {
    Napi::Array result = Napi::Array::New(info.Env());
    bpf_program* program;
    bpf_object__for_each_program(program, object_.get()) {
      result[result.Length()] = bpf_program__name(program);
    }
    return result;
  }

  // undefined when the object was compiled without -g
  Napi::Value Types(const Napi::CallbackInfo& info) {
    const btf* types = bpf_object__btf(object_.get());
    return types != nullptr ? BtfFrom(info.Env(), types) : info.Env().Undefined();
  }

  // (section) -> copy of the variables of '.rodata' and the like; undefined when there is no such section
  Napi::Value InitialValue(const Napi::CallbackInfo& info) {
    const bpf_map* map = bpf_object__find_map_by_name(object_.get(), TextOf(info[0]).c_str());
    size_t size = 0;
    const void* bytes = map != nullptr ? bpf_map__initial_value(const_cast<bpf_map*>(map), &size) : nullptr;
    if (bytes == nullptr) return info.Env().Undefined();
    return Napi::Buffer<uint8_t>::Copy(info.Env(), static_cast<const uint8_t*>(bytes), size);
  }

  void SetInitialValue(const Napi::CallbackInfo& info) {
    const Bytes bytes = BytesOf(info[1]);
    const int error = bpf_map__set_initial_value(FindMap(info), bytes.data, bytes.size);
    if (error != 0) Fail(info.Env(), -error, "bpf_map__set_initial_value", TextOf(info[0]));
  }

  void SetMaxEntries(const Napi::CallbackInfo& info) {
    const int error = bpf_map__set_max_entries(FindMap(info), UnsignedOf(info[1]));
    if (error != 0) Fail(info.Env(), -error, "bpf_map__set_max_entries", TextOf(info[0]));
  }

  void ReuseMap(const Napi::CallbackInfo& info) {
    LogCapture log;
    const int error = bpf_map__reuse_fd(FindMap(info), IntOf(info[1]));
    if (error != 0) Fail(info.Env(), -error, "bpf_map__reuse_fd", TextOf(info[0]), &log);
  }

  void SkipProgram(const Napi::CallbackInfo& info) {
    const int error = bpf_program__set_autoload(FindProgram(info), false);
    if (error != 0) Fail(info.Env(), -error, "bpf_program__set_autoload", TextOf(info[0]));
  }

  void Load(const Napi::CallbackInfo& info) {
    LogCapture log;
    const int error = bpf_object__load(object_.get());
    if (error != 0) Fail(info.Env(), -error, "bpf_object__load", bpf_object__name(object_.get()), &log);
  }

  Napi::Value MapDescriptor(const Napi::CallbackInfo& info) {
    return Descriptor::Duplicate(info.Env(), bpf_map__fd(FindMap(info)));
  }

  Napi::Value ProgramDescriptor(const Napi::CallbackInfo& info) {
    return Descriptor::Duplicate(info.Env(), bpf_program__fd(FindProgram(info)));
  }

  void Close(const Napi::CallbackInfo&) { object_.reset(); }

  bpf_map* FindMap(const Napi::CallbackInfo& info) {
    const std::string name = TextOf(info[0]);
    bpf_map* map = bpf_object__find_map_by_name(object_.get(), name.c_str());
    if (map == nullptr) Fail(info.Env(), ENOENT, "bpf_object__find_map_by_name", name);
    return map;
  }

  bpf_program* FindProgram(const Napi::CallbackInfo& info) {
    const std::string name = TextOf(info[0]);
    bpf_program* program = bpf_object__find_program_by_name(object_.get(), name.c_str());
    if (program == nullptr) Fail(info.Env(), ENOENT, "bpf_object__find_program_by_name", name);
    return program;
  }

  std::unique_ptr<bpf_object, CloseObject> object_;
};

}  // namespace

void ExportObject(Napi::Env env, Napi::Object exports) { exports["Object"] = Object::Define(env); }

}  // namespace homeproxy
