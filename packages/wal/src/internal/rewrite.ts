/**
 * Writing back what a file holds.
 *
 * After a failed sync the operating system may take pages for written that are not on the disk: they can be read, and
 * no later sync writes them. A process that opens such a file again, before the machine has restarted, finds there what
 * the disk does not have. Written once more the pages are due again, and the next sync brings them to the disk or says
 * that it cannot.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"

const chunkBytes = 1024 * 1024

/** @internal Writes the bytes `start` (included) to `end` (not included) of a file where they are. */
export const rewrite = Effect.fnUntraced(function*(
  file: VfsFile,
  start: number,
  end: number
): Effect.fn.Return<void, VfsError> {
  const buffer = new Uint8Array(Math.max(0, Math.min(chunkBytes, end - start)))
  for (let at = start; at < end; at += buffer.length) {
    const chunk = buffer.subarray(0, Math.min(buffer.length, end - at))
    const count = yield* file.read(chunk, at)
    invariant(count === chunk.length, "a file is written back as far as it goes")
    yield* file.write([chunk], at)
  }
})
