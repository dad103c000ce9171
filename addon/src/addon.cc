// SPDX-License-Identifier: Apache-2.0
#include <napi.h>

#include "batch.h"
#include "btf.h"
#include "descriptor.h"
#include "environment.h"
#include "failure.h"
#include "grace-period.h"
#include "line.h"
#include "map.h"
#include "mapping-flags.h"
#include "mounts.h"
#include "netlink.h"
#include "network.h"
#include "object.h"
#include "program.h"
#include "ring.h"
#include "same-files.h"
#include "streams.h"
#include "survey.h"
#include "system.h"
#include "tap.h"
#include "tcx.h"
#include "tracker.h"
#include "watch.h"

namespace homeproxy {
namespace {

// Called once per environment by lib/native.ts, before anything else, with the class to throw.
void SetErrorClass(const Napi::CallbackInfo& info) {
  Environment::Of(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
}

Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  InstallLogCapture();
  auto* environment = new Environment();
  env.SetInstanceData(environment);
  const Napi::Function descriptor = Descriptor::Define(env), types = Btf::Define(env);
  environment->descriptor_class = Napi::Persistent(descriptor);
  environment->btf_class = Napi::Persistent(types);
  exports["setErrorClass"] = Napi::Function::New(env, SetErrorClass, "setErrorClass");
  exports["Btf"] = types;
  ExportBatch(env, exports);
  ExportGracePeriod(env, exports);
  ExportLine(env, exports);
  ExportMap(env, exports);
  ExportMappingFlags(env, exports);
  ExportMounts(env, exports);
  ExportProgram(env, exports);
  ExportNetlink(env, exports);
  ExportNetwork(env, exports);
  ExportObject(env, exports);
  ExportRing(env, exports);
  ExportSameFiles(env, exports);
  ExportStreams(env, exports);
  ExportSurvey(env, exports);
  ExportSystem(env, exports);
  ExportTap(env, exports);
  ExportTcx(env, exports);
  ExportTracker(env, exports);
  ExportWatch(env, exports);
  return exports;
}

}  // namespace
}  // namespace homeproxy

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) { return homeproxy::Initialize(env, exports); }

NODE_API_MODULE(homeproxy, Initialize)
