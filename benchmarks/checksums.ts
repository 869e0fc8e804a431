/**
 * What CRC-32C, XXH3-64 and BLAKE3 cost, by package and length (decisions 0002 and 0012).
 *
 *     node benchmarks/checksums.ts [--candidates DIRECTORY] [--only TEXT] [--json]
 *
 * Without `--candidates` only what this repository uses is measured. With it, the packages `hash-wasm`, `xxhash-addon`,
 * `@noble/hashes` and `blake3-jit` are loaded from that directory's `node_modules`, those that are there. `--only blake3`
 * measures the functions whose name begins with that.
 */
import { blake3, crc32c, xxh3 } from "@tidemark/platform/Checksum"
import { createRequire } from "node:module"
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { crc32 as zlibCrc32 } from "node:zlib"

const { values } = parseArgs({
  options: {
    candidates: { type: "string" },
    only: { type: "string", default: "" },
    json: { type: "boolean", default: false }
  }
})

type Hash = (bytes: Uint8Array) => unknown

interface WasmHasher {
  readonly init: () => void
  readonly update: (bytes: Uint8Array) => void
  readonly digest: (format: "binary") => Uint8Array
}

const toBigInt = (digest: Uint8Array) => new DataView(digest.buffer, digest.byteOffset, 8).getBigUint64(0)

const functions = new Map<string, Hash>([
  ["crc32c: @node-rs/crc32", (bytes) => crc32c(bytes)],
  ["crc32 (another polynomial): node:zlib", (bytes) => zlibCrc32(bytes)],
  ["xxh3: @node-rs/xxhash", xxh3],
  ["blake3: @napi-rs/blake-hash", blake3]
])

if (values.candidates !== undefined) {
  const loadFrom = createRequire(NodePath.join(NodePath.resolve(values.candidates), "candidates.cjs"))
  const add = async <Module>(
    name: string,
    use: (module: Module) => Promise<ReadonlyArray<readonly [string, Hash]>>
  ) => {
    try {
      loadFrom.resolve(name)
    } catch {
      return
    }
    // Not a dependency of this repository: what its documentation says about the functions that are used.
    for (const [kind, hash] of await use(loadFrom(name) as Module)) {
      functions.set(`${kind}: ${name.split("/blake3")[0]}`, hash)
    }
  }
  type HashWasm = { readonly [K in "createXXHash3" | "createBLAKE3"]: () => Promise<WasmHasher> }
  await add<HashWasm>("hash-wasm", async ({ createBLAKE3, createXXHash3 }) => {
    const [xxhash, blake] = await Promise.all([createXXHash3(), createBLAKE3()])
    const digestOf = (hasher: WasmHasher, bytes: Uint8Array) => {
      hasher.init()
      hasher.update(bytes)
      return hasher.digest("binary")
    }
    return [["xxh3", (bytes) => toBigInt(digestOf(xxhash, bytes))], ["blake3", (bytes) => digestOf(blake, bytes)]]
  })
  type XxhashAddon = { readonly XXHash3: { readonly hash: (bytes: Uint8Array) => Uint8Array } }
  await add<XxhashAddon>("xxhash-addon", async ({ XXHash3 }) => [["xxh3", (bytes) => toBigInt(XXHash3.hash(bytes))]])
  type Blake3 = { readonly blake3: (bytes: Uint8Array) => Uint8Array }
  await add<Blake3>("@noble/hashes/blake3.js", async ({ blake3 }) => [["blake3", blake3]])
  type Blake3Jit = { readonly hash: (bytes: Uint8Array) => Uint8Array }
  await add<Blake3Jit>("blake3-jit", async ({ hash }) => [["blake3", hash]])
}

const filled = (length: number) => Uint8Array.from({ length }, (_, index) => index * 31 + (index >> 8))

const asText = (result: unknown) => result instanceof Uint8Array ? Buffer.from(result).toString("hex") : String(result)

// The implementations of a function agree, or there is nothing to compare.
for (const kind of ["xxh3:", "blake3:"]) {
  for (const length of [0, 1, 16, 80, 144, 241, 1024, 4096, 65_536]) {
    const results = new Set(
      [...functions].filter(([name]) => name.startsWith(kind)).map(([, hash]) => asText(hash(filled(length))))
    )
    if (results.size !== 1) throw new Error(`the implementations of ${kind} differ at ${length} bytes`)
  }
}
for (const name of functions.keys()) if (!name.startsWith(values.only)) functions.delete(name)

/** Processor time of this thread, which other work on the machine changes less than it changes the time on the clock. */
const threadMicros = () => {
  const { system, user } = process.threadCpuUsage()
  return user + system
}

const rounds = 9
const rows = [80, 4096, 65_536, 1_048_576].flatMap((length) => {
  const bytes = filled(length)
  const callsAtOnce = Math.ceil(2_000_000 / (length + 2000))
  const nanos = new Map<string, Array<number>>()
  for (let round = 0; round < rounds; round++) {
    for (const [name, hash] of round % 2 === 0 ? functions : [...functions].toReversed()) {
      const started = threadMicros()
      let calls = 0
      let micros = 0
      // The system counts processor time in steps of some milliseconds.
      while (micros < 60_000) {
        for (let call = 0; call < callsAtOnce; call++) hash(bytes)
        calls += callsAtOnce
        micros = threadMicros() - started
      }
      nanos.set(name, [...nanos.get(name) ?? [], micros * 1000 / calls])
    }
  }
  return [...nanos].map(([name, durations]) => {
    const sorted = durations.toSorted((a, b) => a - b)
    const median = sorted[rounds >> 1] ?? Number.NaN
    return {
      bytes: length,
      name,
      medianNanos: Math.round(median),
      spreadNanos: Math.round((sorted.at(-1) ?? Number.NaN) - (sorted[0] ?? Number.NaN)),
      gigabytesPerSecond: Number((length / median).toFixed(2))
    }
  })
})

if (values.json) console.log(JSON.stringify(rows))
else console.table(rows)
