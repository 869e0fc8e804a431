/** All three adapters in directories of their own, with logs that are short: snapshots come all the time. */
import * as Layer from "effect/Layer"
import * as PersistedQueue from "effect/persistence/PersistedQueue"
import * as LogEventJournal from "../../src/LogEventJournal.ts"
import * as LogKeyValueStore from "../../src/LogKeyValueStore.ts"
import * as LogPersistedQueue from "../../src/LogPersistedQueue.ts"

const short = { segmentBytes: 16 * 1024, snapshotMinBytes: 8 * 1024, snapshotRatio: 0.5 }

export const adapterLayers = (directory: string) =>
  Layer.mergeAll(
    LogKeyValueStore.layerDirectory({ directory: `${directory}/store`, ...short }),
    PersistedQueue.layer.pipe(
      Layer.provide(LogPersistedQueue.layerStoreDirectory({ directory: `${directory}/queues`, ...short }))
    ),
    LogEventJournal.layerDirectory({ directory: `${directory}/journal`, ...short })
  )
