// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

namespace homeproxy {

void ExportMappingFlags(Napi::Env env, Napi::Object exports);

}  // namespace homeproxy
