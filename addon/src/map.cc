// SPDX-License-Identifier: Apache-2.0
#include "map.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <sys/mman.h>

#include <memory>

#include "arguments.h"
#include "btf.h"
#include "descriptor.h"
#include "failure.h"

namespace homeproxy {
namespace {

Napi::Value Create(const Napi::CallbackInfo& info) {
  LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = UnsignedOf(info[5]));
  const std::string wanted = TextOf(info[0]);
  int type = 1;
  for (const char* name; (name = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type))) != nullptr; ++type) {
    if (wanted == name) break;
  }
  if (libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type)) == nullptr) {
    Fail(info.Env(), EINVAL, "bpf_map_create", "no map type '" + wanted + "'");
  }
  const std::string name = TextOf(info[1]);
  const int fd = bpf_map_create(static_cast<bpf_map_type>(type), name.empty() ? nullptr : name.c_str(),
                                UnsignedOf(info[2]), UnsignedOf(info[3]), UnsignedOf(info[4]), &options);
  if (fd < 0) Fail(info.Env(), -fd, "bpf_map_create", name);
  return Descriptor::New(info.Env(), fd);
}

Napi::Value Info(const Napi::CallbackInfo& info) {
  bpf_map_info kernel = {};
  uint32_t size = sizeof kernel;
  if (const int error = bpf_obj_get_info_by_fd(IntOf(info[0]), &kernel, &size)) {
    Fail(info.Env(), -error, "bpf_obj_get_info_by_fd");
  }
  const char* type = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(kernel.type));
  Napi::Object result = Napi::Object::New(info.Env());
  result["id"] = kernel.id;
  result["name"] = kernel.name;
  result["type"] = type != nullptr ? type : std::to_string(kernel.type);
  result["keySize"] = kernel.key_size;
  result["valueSize"] = kernel.value_size;
  result["maxEntries"] = kernel.max_entries;
  result["flags"] = kernel.map_flags;
  result["btfId"] = kernel.btf_id;
  result["keyType"] = kernel.btf_key_type_id;
  result["valueType"] = kernel.btf_value_type_id;
  return result;
}

// (id of type information that the kernel holds, as a map names it) -> a copy
Napi::Value TypesById(const Napi::CallbackInfo& info) {
  btf* types = btf__load_from_kernel_by_id(UnsignedOf(info[0]));
  if (types == nullptr) Fail(info.Env(), errno, "btf__load_from_kernel_by_id");
  const std::unique_ptr<btf, decltype(&btf__free)> owner(types, btf__free);
  return BtfFrom(info.Env(), types);
}

Napi::Value Lookup(const Napi::CallbackInfo& info) {
  const int error = bpf_map_lookup_elem(IntOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data);
  if (error != 0 && error != -ENOENT) Fail(info.Env(), -error, "bpf_map_lookup_elem");
  return Napi::Boolean::New(info.Env(), error == 0);
}

void Update(const Napi::CallbackInfo& info) {
  const int error =
      bpf_map_update_elem(IntOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data, UnsignedOf(info[3]));
  if (error != 0) Fail(info.Env(), -error, "bpf_map_update_elem");
}

Napi::Value Delete(const Napi::CallbackInfo& info) {
  const int error = bpf_map_delete_elem(IntOf(info[0]), BytesOf(info[1]).data);
  if (error != 0 && error != -ENOENT) Fail(info.Env(), -error, "bpf_map_delete_elem");
  return Napi::Boolean::New(info.Env(), error == 0);
}

Napi::Value NextKey(const Napi::CallbackInfo& info) {
  const int error = bpf_map_get_next_key(IntOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data);
  if (error != 0 && error != -ENOENT) Fail(info.Env(), -error, "bpf_map_get_next_key");
  return Napi::Boolean::New(info.Env(), error == 0);
}

// (fd, cursor or null, next cursor, keys, values, room) -> [entries, whether there are more]
Napi::Value LookupBatch(const Napi::CallbackInfo& info) {
  uint32_t count = UnsignedOf(info[5]);
  const int error = bpf_map_lookup_batch(IntOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data,
                                         BytesOf(info[3]).data, BytesOf(info[4]).data, &count, nullptr);
  if (error != 0 && error != -ENOENT) Fail(info.Env(), -error, "bpf_map_lookup_batch");
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result[0u] = count;
  result[1u] = Napi::Boolean::New(info.Env(), error == 0);
  return result;
}

void UpdateBatch(const Napi::CallbackInfo& info) {
  LIBBPF_OPTS(bpf_map_batch_opts, options, .elem_flags = UnsignedOf(info[4]));
  uint32_t count = UnsignedOf(info[3]);
  const int error =
      bpf_map_update_batch(IntOf(info[0]), BytesOf(info[1]).data, BytesOf(info[2]).data, &count, &options);
  if (error != 0) Fail(info.Env(), -error, "bpf_map_update_batch");
}

// (fd, keys, count) -> how many were deleted before the first that was not there
Napi::Value DeleteBatch(const Napi::CallbackInfo& info) {
  uint32_t count = UnsignedOf(info[2]);
  const int error = bpf_map_delete_batch(IntOf(info[0]), BytesOf(info[1]).data, &count, nullptr);
  if (error != 0 && error != -ENOENT) Fail(info.Env(), -error, "bpf_map_delete_batch");
  return Napi::Number::New(info.Env(), count);
}

// (fd, bytes) -> the values of an array, as they are: unmapped when the buffer is collected, or some time after Unmap
Napi::Value MapMemory(const Napi::CallbackInfo& info) {
  const size_t bytes = UnsignedOf(info[1]);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, IntOf(info[0]), 0);
  if (memory == MAP_FAILED) Fail(info.Env(), errno, "mmap", "map");
  return Napi::ArrayBuffer::New(info.Env(), memory, bytes, [bytes](Napi::Env, void* mapped) { munmap(mapped, bytes); });
}

void Unmap(const Napi::CallbackInfo& info) { info[0].As<Napi::ArrayBuffer>().Detach(); }

Napi::Value PossibleCpus(const Napi::CallbackInfo& info) {
  const int count = libbpf_num_possible_cpus();
  if (count < 0) Fail(info.Env(), -count, "libbpf_num_possible_cpus");
  return Napi::Number::New(info.Env(), count);
}

}  // namespace

void ExportMap(Napi::Env env, Napi::Object exports) {
  exports["mapCreate"] = Napi::Function::New(env, Create, "mapCreate");
  exports["mapInfo"] = Napi::Function::New(env, Info, "mapInfo");
  exports["typesById"] = Napi::Function::New(env, TypesById, "typesById");
  exports["mapLookup"] = Napi::Function::New(env, Lookup, "mapLookup");
  exports["mapUpdate"] = Napi::Function::New(env, Update, "mapUpdate");
  exports["mapDelete"] = Napi::Function::New(env, Delete, "mapDelete");
  exports["mapNextKey"] = Napi::Function::New(env, NextKey, "mapNextKey");
  exports["mapLookupBatch"] = Napi::Function::New(env, LookupBatch, "mapLookupBatch");
  exports["mapUpdateBatch"] = Napi::Function::New(env, UpdateBatch, "mapUpdateBatch");
  exports["mapDeleteBatch"] = Napi::Function::New(env, DeleteBatch, "mapDeleteBatch");
  exports["mapMemory"] = Napi::Function::New(env, MapMemory, "mapMemory");
  exports["unmap"] = Napi::Function::New(env, Unmap, "unmap");
  exports["possibleCpus"] = Napi::Function::New(env, PossibleCpus, "possibleCpus");
}

}  // namespace homeproxy
