/**
 * How many bytes of files a recovery drops: the sizes are taken before the database is opened, because files that count
 * for nothing go away with that.
 *
 * @since 0.1.0
 */
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"

/**
 * The size of each of these files; 0 of one that is gone.
 *
 * @category sizes
 * @since 0.1.0
 */
export const sizesOf = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  paths: ReadonlyArray<string>
): Effect.fn.Return<ReadonlyMap<string, number>, VfsError> {
  const sizes = new Map<string, number>()
  for (const path of paths) sizes.set(path, (yield* vfs.identify(path))?.size ?? 0)
  return sizes
})

/**
 * What the dropped ones among them took.
 *
 * @category sizes
 * @since 0.1.0
 */
export const droppedBytesOf = (sizes: ReadonlyMap<string, number>, dropped: ReadonlyArray<string>): number =>
  dropped.reduce((sum, path) => sum + (sizes.get(path) ?? 0), 0)
