// The pages of a generation, for JavaScript.
#pragma once

#include <napi.h>

#include <memory>

#include "core/checkpoint_image.h"

namespace vmckpt::binding {

/** The image inside of its JavaScript object. */
std::shared_ptr<CheckpointImage> ImageOf(Napi::Value value);

void ExportCheckpointImage(Napi::Object exports);

}  // namespace vmckpt::binding
