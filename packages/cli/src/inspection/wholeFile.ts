/**
 * Files that are looked at as a whole, because what makes sense of one part of them is in another one.
 *
 * @since 0.1.0
 */
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { OperationFailed } from "../ExitCode.ts"
import type { OpenedFile } from "./Inspection.ts"

const chunkBytes = 1024 * 1024

/**
 * The bytes of a file, which is refused when it is larger than this machine can hold. `allocate` makes the memory for
 * them.
 *
 * @category reading
 * @since 0.1.0
 */
export const readWhole = Effect.fnUntraced(function*(
  { bytes, file }: OpenedFile,
  allocate: (bytes: number) => Uint8Array = (bytes) => new Uint8Array(bytes)
): Effect.fn.Return<Uint8Array, OperationFailed | VfsError> {
  const buffer = yield* allocateWith(allocate, file.path, bytes)
  let length = 0
  while (length < bytes) {
    const chunk = buffer.subarray(length, length + chunkBytes)
    const count = yield* file.read(chunk, length)
    length += count
    // Somebody has cut it off meanwhile.
    if (count < chunk.length) break
  }
  return buffer.subarray(0, length)
})

const allocateWith = (
  allocate: (bytes: number) => Uint8Array,
  path: string,
  bytes: number
): Effect.Effect<Uint8Array, OperationFailed> =>
  Effect.try({
    try: () => allocate(bytes),
    catch: () =>
      new OperationFailed({ path, sentence: `${path} has ${bytes} bytes, more than this machine can hold in memory` })
  })
