/**
 * How long a region may be.
 */
import { invariant } from "@tidemark/core/Invariant"

/**
 * A region is a multiple of so many bytes: the page of a WebAssembly memory, and the largest page of arm64.
 *
 * @category constants
 * @since 0.1.0
 */
export const regionGrainBytes = 65_536

/**
 * The longest region, one gibibyte: offsets stay small integers.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxRegionBytes = 1_073_741_824

/**
 * The length of a region that is to hold `bytes`, of which the first are given.
 *
 * @internal
 */
export const regionBytes = (options: { readonly bytes: number; readonly content: Uint8Array }): number => {
  const { bytes, content } = options
  invariant(Number.isSafeInteger(bytes) && bytes > 0, "a region has a length in whole bytes")
  invariant(content.length <= bytes, "the first bytes of a region lie in it")
  const rounded = Math.ceil(bytes / regionGrainBytes) * regionGrainBytes
  invariant(rounded <= maxRegionBytes, `a region has at most ${maxRegionBytes} bytes`)
  return rounded
}
