-- Everything that is stored goes on to Mirall, its own results included: Mirall must know them when it sees them again.
function OnStoredInstance(instanceId, tags, metadata, origin)
   SendToModality(instanceId, 'mirall')
end
